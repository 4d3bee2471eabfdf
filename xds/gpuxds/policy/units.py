"""Values as people write them: durations such as `500ms`, `5s`, `5m`, read into seconds; hashes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S = 30 * 86_400.0
PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def parse_duration(value: object) -> float:
    """Seconds in a duration. Raises ValueError with what is allowed."""
    if isinstance(value, str) and (match := PATTERN.fullmatch(value.strip())):
        seconds = float(match[1]) * UNITS_S[match[2]]
        if seconds <= LONGEST_S:
            return seconds
        raise ValueError(f"{value!r} is longer than 30 days")
    raise ValueError(f"{value!r} is not a duration; write a number with a unit: 500ms, 5s, 5m, 1h")


def parse_sha256(value: object) -> str:
    """64 hexadecimal digits. Raises ValueError, which does not repeat what may be a key by mistake."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return value.lower()
    raise ValueError("must be 64 hexadecimal digits in quotes: the SHA-256 of the key, not the key itself")


Sha256 = Annotated[
    str,
    BeforeValidator(parse_sha256),
    Field(json_schema_extra={"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
]
"""A hash in lower case."""

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(json_schema_extra={"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h)$"}),
]
"""Seconds in Python, `500ms` in YAML."""


def written(seconds: float) -> str:
    """Seconds the way a policy has them, in the largest unit that divides them."""
    for unit, size_s in reversed(UNITS_S.items()):
        if seconds >= size_s and (seconds / size_s).is_integer():
            return f"{seconds / size_s:.0f}{unit}"
    return f"{1000 * seconds:g}ms"
