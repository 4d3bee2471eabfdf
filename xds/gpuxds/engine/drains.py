"""Which endpoints are being drained, by whom and until when; and when a drain is refused.

A drain is intent and so survives restarts. It stays until it is undone or its endpoint has been out of the
fleet for `FORGET_AFTER_S`, so that a source that hiccups does not put a draining endpoint back to work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from pydantic import TypeAdapter

from gpuxds.errors import DrainRefused
from gpuxds.scoring.contract import Drain, EnvoyHealth, PoolDecision

FORGET_AFTER_S = 600.0
ADAPTER = TypeAdapter(list[Drain])


@dataclass(slots=True)
class Drains:
    """The drains in force, by endpoint id."""

    by_id: dict[str, Drain] = field(default_factory=dict)
    missing_since: dict[str, float] = field(default_factory=dict)

    def start(self, drain: Drain, decision: PoolDecision, *, force: bool) -> None:
        """Put a drain in force. Raises DrainRefused when nobody would be left to serve the pool."""
        if not force:
            refuse_last_serving(drain.id, decision)
        self.by_id[drain.id] = drain

    def undo(self, endpoint_id: str) -> bool:
        """Take a drain back; False when there was none."""
        self.missing_since.pop(endpoint_id, None)
        return self.by_id.pop(endpoint_id, None) is not None

    def forget_missing(self, present: Iterable[str], now: float) -> None:
        """Drop drains of endpoints that left the fleet long ago."""
        here = set(present)
        for endpoint_id in list(self.by_id):
            if endpoint_id in here:
                self.missing_since.pop(endpoint_id, None)
            elif now - self.missing_since.setdefault(endpoint_id, now) > FORGET_AFTER_S:
                self.undo(endpoint_id)

    def dump(self) -> list[dict[str, object]]:
        """JSON-able."""
        return [asdict(drain) for drain in self.by_id.values()]

    @classmethod
    def restore(cls, rows: Iterable[Mapping[str, object]]) -> Drains:
        """From `dump`."""
        return cls({drain.id: drain for drain in ADAPTER.validate_python(list(rows))})


def refuse_last_serving(endpoint_id: str, decision: PoolDecision) -> None:
    """Raise DrainRefused when no other endpoint of the cluster takes requests."""
    serving = (decision.envoy_health == EnvoyHealth.HEALTHY) & decision.in_eds
    others = [decision.ids[row] for row in np.flatnonzero(serving) if decision.ids[row] != endpoint_id]
    if not others:
        raise DrainRefused(
            f"{endpoint_id} is the last serving endpoint of {decision.cluster}: draining it would answer every "
            "request with 503. Bring another endpoint up first, or say --force"
        )
