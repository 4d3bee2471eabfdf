"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.02


async def until(condition: Callable[[], Any], deadline_s: float, what: str = "the condition") -> Any:
    """The first truthy value of `condition`, which may be a coroutine function.

    Fails, saying what was last seen, when none comes in time.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not hold within {deadline_s:g} s; last seen: {value!r}")
        await asyncio.sleep(POLL_S)


async def seconds_until(condition: Callable[[], object], deadline_s: float, what: str = "the condition") -> float:
    """How long it took until `condition` held. Fails when it does not in time."""
    started = time.monotonic()
    await until(condition, deadline_s, what)
    return time.monotonic() - started
