"""Paired timing: both sides take turns in one process, and the best of each is compared.

Times are CPU time, so that others on the machine do not count; nothing that is timed here waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What one comparison found. Times are the best of all rounds, in seconds per call."""

    ours_s: float
    peer_s: float

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return self.peer_s / self.ours_s


def once(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds per call over `repeats` calls."""
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = 5, repeats: int = 20,
    peer_repeats: int | None = None,
) -> Result:  # fmt: skip
    """Time both in turns."""
    pairs = [(once(ours, repeats), once(theirs, peer_repeats or repeats)) for _ in range(rounds)]
    return Result(min(a for a, _ in pairs), min(b for _, b in pairs))
