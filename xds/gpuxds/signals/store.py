"""The last value of every signal of every endpoint, as columns of numbers and timestamps.

One row per endpoint, reused when an endpoint leaves; columns grow by doubling. Writers record as pages
arrive; a decision takes a view, which is a copy and never changes under it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from gpuxds.policy.model import SignalsSpec
from gpuxds.signals.model import Floats, FreshnessRule, Signal, SignalView, Source

WIDTH = len(Signal)
FIRST_ROWS = 16
LARGEST = 1e15
"""Tokens served in a life stay below it; DCGM's blanks do not."""
PROXY_RULE = FreshnessRule(stale_after_s=5.0, absent_after_s=60.0)
"""Proxies report once a second."""
PROBE_RULE = FreshnessRule(stale_after_s=30.0, absent_after_s=float("inf"))
"""Proofs of life are judged by their age, so they are never forgotten."""
ALIVE: Mapping[Signal, float] = {Signal.ANSWERED: 1.0, Signal.PROBE_REFUSALS: 0.0, Signal.PROBE_TIMEOUTS: 0.0}
"""What a proof of life says."""


def rules_of(spec: SignalsSpec) -> dict[Source, FreshnessRule]:
    """Freshness per source, from the policy."""
    return {
        Source.ENGINE: FreshnessRule(spec.engine.stale_after, spec.engine.absent_after),
        Source.GPU: FreshnessRule(spec.gpu.stale_after, spec.gpu.absent_after),
        Source.PROXY: PROXY_RULE,
        Source.PROBE: PROBE_RULE,
        Source.HEARTBEAT: FreshnessRule(spec.heartbeat.stale_after, spec.heartbeat.lost_after),
    }


class Store:
    """Columns over endpoints. Not thread-safe: one event loop writes and reads."""

    def __init__(self, rules: Mapping[Source, FreshnessRule]) -> None:
        self.rules = rules
        self.rows: dict[str, int] = {}
        self.free: list[int] = []
        self.values: Floats = np.full((WIDTH, FIRST_ROWS), np.nan)
        self.times: Floats = np.full((WIDTH, FIRST_ROWS), -np.inf)

    def sync(self, ids: Iterable[str]) -> None:
        """Have a row for each of `ids` and for nobody else."""
        wanted = list(ids)
        for endpoint_id in set(self.rows) - set(wanted):
            row = self.rows.pop(endpoint_id)
            self.values[:, row], self.times[:, row] = np.nan, -np.inf
            self.free.append(row)
        for endpoint_id in wanted:
            if endpoint_id not in self.rows:
                self.rows[endpoint_id] = self.next_row()

    def next_row(self) -> int:
        """A free row, growing the columns when there is none."""
        if self.free:
            return self.free.pop()
        row = len(self.rows)
        if row >= self.values.shape[1]:
            self.values = np.concatenate([self.values, np.full_like(self.values, np.nan)], axis=1)
            self.times = np.concatenate([self.times, np.full_like(self.times, -np.inf)], axis=1)
        return row

    def record(self, endpoint_id: str, values: Mapping[Signal, float], at: float) -> None:
        """Values that were true at `at` (unix seconds); ignored for endpoints that have left.

        What is no number, infinite or absurd counts as not said, here and nowhere else.
        """
        row = self.rows.get(endpoint_id)
        if row is None:
            return
        for signal, value in values.items():
            if not abs(value) <= LARGEST:
                continue
            self.values[signal, row] = value
            self.times[signal, row] = at

    def add(self, endpoint_id: str, signal: Signal, at: float) -> float:
        """Count one more of a signal that counts in a row; the new count."""
        row = self.rows.get(endpoint_id)
        if row is None:
            return 0.0
        before = self.values[signal, row]
        after = 1.0 if np.isnan(before) else float(before) + 1.0
        self.record(endpoint_id, {signal: after}, at)
        return after

    def at(self, endpoint_id: str, signal: Signal) -> float:
        """Unix seconds of the last value; -inf when never seen."""
        row = self.rows.get(endpoint_id)
        return -math.inf if row is None else float(self.times[signal, row])

    def get(self, endpoint_id: str, signal: Signal) -> float:
        """The last value; NaN when never seen."""
        row = self.rows.get(endpoint_id)
        return float("nan") if row is None else float(self.values[signal, row])

    def view(self, ids: tuple[str, ...], now: float) -> SignalView:
        """An immutable copy for `ids`, in that order. Raises KeyError for an id that has no row."""
        rows = np.array([self.rows[endpoint_id] for endpoint_id in ids], dtype=np.int64)
        # `take` is several times faster than indexing, and this is most of a decision's time in a large fleet.
        values, times = self.values.take(rows, axis=1), self.times.take(rows, axis=1)
        values.flags.writeable = times.flags.writeable = False
        return SignalView(ids, now, values, times, dict(self.rules))
