"""Priorities as the guards' script reads them: levels from 1 (LOW) to 4 (URGENT), rules, room that is kept free.

Values come from a policy and go into a program, so each is written as a Lua string in which nothing but letters and
digits stands for itself.
"""

from __future__ import annotations

import math
from typing import get_args

from gpuxds.policy.model import PrioritiesSpec, Priority

LEVELS: dict[str, int] = {name: level for level, name in enumerate(get_args(Priority), start=1)}


def script_lines(spec: PrioritiesSpec | None, capacity: int) -> list[str]:
    """The script's constants; without priorities every request is alike and nothing is kept free."""
    kept = kept_free(capacity, spec.reserved_percent if spec else 0.0)
    rules = ", ".join(
        f"{{header = {quoted(rule.header)}, levels = {{{levels(rule.values, LEVELS[rule.priority])}}}}}"
        for rule in (spec.rules if spec else ())
    )
    return [
        f"local KEPT_FREE = {{{', '.join(map(str, kept))}}}",
        f"local DEFAULT_LEVEL = {LEVELS[spec.default if spec else 'NORMAL']}",
        f"local RULES = {{{rules}}}",
    ]


def kept_free(capacity: int, reserved_percent: float) -> tuple[int, ...]:
    """Requests that each level, LOW first, leaves to those above it; each level may run at least one."""
    reserve = math.ceil(capacity * reserved_percent / 100.0)
    return tuple(min(kept, capacity - 1) for kept in (2 * reserve, reserve, 0, 0))


def levels(values: list[str], level: int) -> str:
    """A Lua table's entries: value -> level."""
    return ", ".join(f"[{quoted(value)}] = {level}" for value in values)


def quoted(text: str) -> str:
    """A Lua string."""
    return '"' + "".join(chr(b) if chr(b).isalnum() and b < 128 else f"\\{b:03d}" for b in text.encode()) + '"'
