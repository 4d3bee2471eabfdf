"""Priorities as the guards' script reads them: levels from 1 (LOW) to 4 (URGENT), rules, room that is kept free.

A tenant is known to the guard by the header in which proxies say whose a request is; clients cannot set it.
"""

from __future__ import annotations

import math
from typing import get_args

from gpuxds.policy.requests import PrioritiesSpec, Priority
from gpuxds.snapshot.lua import Literal, literal
from gpuxds.snapshot.tenants import HEADER

LEVELS: dict[str, int] = {name: level for level, name in enumerate(get_args(Priority), start=1)}


def script_lines(spec: PrioritiesSpec | None, capacity: int) -> list[str]:
    """The script's constants; without priorities every request is alike and nothing is kept free."""
    rules: list[Literal] = [
        {
            "header": rule.header or HEADER,
            "levels": dict.fromkeys(rule.tenants or rule.values, LEVELS[rule.priority]),
        }
        for rule in (spec.rules if spec else ())
    ]
    return [
        f"local KEPT_FREE = {literal(kept_free(capacity, spec.reserved_percent if spec else 0.0))}",
        f"local DEFAULT_LEVEL = {LEVELS[spec.default if spec else 'NORMAL']}",
        f"local RULES = {literal(rules)}",
    ]


def kept_free(capacity: int, reserved_percent: float) -> tuple[int, ...]:
    """Requests that each level, LOW first, leaves to those above it; each level may run at least one."""
    reserve = math.ceil(capacity * reserved_percent / 100.0)
    return tuple(min(kept, capacity - 1) for kept in (2 * reserve, reserve, 0, 0))
