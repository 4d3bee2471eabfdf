"""What the demo measures: each endpoint's share of new requests, from Envoy's own counters.

Envoy counts requests per host when it sends them, so a share over the last few seconds is exact and does not
wait for answers. Pure: samples in, shares out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

KEEP_S = 60.0


@dataclass(slots=True)
class Gauge:
    """Request counters per endpoint over the last minute."""

    samples: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque)

    def add(self, at: float, requests: Mapping[str, int]) -> None:
        """One reading of the counters; a host that left Envoy is simply not in it."""
        self.samples.append((at, dict(requests)))
        while self.samples[0][0] < at - KEEP_S:
            self.samples.popleft()

    def issued(self, since: float, until: float) -> dict[str, int]:
        """Requests sent to each endpoint between two moments; counters that restarted count from zero."""
        window = [requests for at, requests in self.samples if since <= at <= until]
        total: dict[str, int] = {}
        for before, after in itertools.pairwise(window):
            for name, count in after.items():
                earlier = before.get(name, 0)
                total[name] = total.get(name, 0) + (count - earlier if count >= earlier else count)
        return total

    def shares(self, since: float, until: float) -> dict[str, float]:
        """Share of new requests per endpoint, 0..1; empty when there were none."""
        issued = self.issued(since, until)
        total = sum(issued.values())
        return {name: count / total for name, count in issued.items()} if total else {}
