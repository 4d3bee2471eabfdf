"""Paired timing: both sides take turns in one process, and the best of each is compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What one comparison found. Times are the best of all rounds, in seconds per call."""

    name: str
    ours_s: float
    peer: str
    peer_s: float

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return self.peer_s / self.ours_s

    def __str__(self) -> str:
        return (
            f"{self.name:<46} {1000 * self.ours_s:9.3f} ms   {self.peer:<44} {1000 * self.peer_s:10.3f} ms   "
            f"x{self.ratio:,.1f}"
        )


def once(call: Callable[[], object], repeats: int) -> float:
    """Seconds per call over `repeats` calls."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def compare(
    name: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object], *, rounds: int = 5,
    repeats: int = 20, peer_repeats: int | None = None,
) -> Result:  # fmt: skip
    """Time both in turns."""
    pairs = [(once(ours, repeats), once(theirs, peer_repeats or repeats)) for _ in range(rounds)]
    return Result(name, min(a for a, _ in pairs), peer, min(b for _, b in pairs))
