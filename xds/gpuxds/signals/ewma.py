"""Averages that forget with time: peak-sensitive for latency, plain for rates.

Time is an argument, reading never mutates, and the weight of the past depends on elapsed time alone, so a
late scrape counts for as long as it covers. Latency jumps to a worse observation at once and comes back
slowly, so that trouble is seen on the first scrape and a single good one does not hide it (the shape of
Finagle's and tower's peak EWMA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ewma:
    """A value and when it was last observed (unix seconds)."""

    value: float
    at: float

    def observe(self, value: float, now: float, tau_s: float, *, peak: bool = False) -> Ewma:
        """The average after one more observation; unchanged for one that is older or not a number."""
        if not math.isfinite(value) or now <= self.at:
            return self
        if (peak and value > self.value) or tau_s <= 0:
            return Ewma(value, now)
        keep = math.exp(-(now - self.at) / tau_s)
        return Ewma(value + (self.value - value) * keep, now)


def observe(before: Ewma | None, value: float, now: float, tau_s: float, *, peak: bool = False) -> Ewma | None:
    """Like `Ewma.observe`, starting from nothing."""
    if before is None:
        return Ewma(value, now) if math.isfinite(value) else None
    return before.observe(value, now, tau_s, peak=peak)
