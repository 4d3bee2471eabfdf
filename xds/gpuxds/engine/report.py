"""What the engine tells people: each thing once as a log line, once as an event, and counted where it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from gpuxds.discovery.events import Acked, Event, NodeInfo
from gpuxds.engine.events import EventLog
from gpuxds.engine.observe import Metrics
from gpuxds.engine.policy import Reload
from gpuxds.fleet.endpoint import Fleet
from gpuxds.fleet.reservation import Reservation
from gpuxds.scoring.contract import Drain, Health, PoolDecision
from gpuxds.scoring.explain import reason

log = structlog.get_logger("gpuxds")
LISTED = 20


@dataclass(slots=True)
class Reporter:
    """Log, events and counters in one place."""

    metrics: Metrics
    events: EventLog
    alarms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Pool -> sentences that were told and still hold."""

    def reload(self, path: Path, outcome: Reload) -> None:
        """An attempt to load a policy."""
        self.metrics.reload_success.set(1 if outcome.ok else 0)
        problems = [str(problem) for problem in outcome.problems]
        self.events.add("reload", outcome.at, ok=outcome.ok, changed=list(outcome.changed), problems=problems)
        if outcome.ok:
            self.metrics.reload_at.set(outcome.at)
            for problem in problems:
                log.warning("policy.warning", problem=problem)
            log.info("policy.in_force", path=str(path), changed=list(outcome.changed))
            return
        self.metrics.reload_failures.inc()
        for problem in problems:
            log.error("policy.refused", problem=problem, effect="the last good policy stays in force")

    def fleet(self, before: Fleet, after: Fleet, now: float) -> None:
        """Endpoints that came or went."""
        come = sorted(set(after.by_id) - set(before.by_id))
        gone = sorted(set(before.by_id) - set(after.by_id))
        if come or gone:
            log.info("fleet.changed", endpoints=len(after.endpoints), added=listed(come), removed=listed(gone))
            self.events.add("fleet", now, added=come, removed=gone)

    def decisions(self, before: Mapping[str, PoolDecision], after: Mapping[str, PoolDecision]) -> None:
        """Pushes, by cluster; health changes and alarms that are new, by pool."""
        for name, decision in after.items():
            if decision.push:
                self.metrics.pushes.labels(name, decision.push_reason).inc()
                self.events.add("push", decision.at, pool=name, reason=decision.push_reason)
            if decision.cluster != decision.pool:
                continue
            self.health(before.get(name), decision)
            for sentence in decision.alarms:
                if sentence not in self.alarms.get(name, ()):
                    log.error("pool.alarm", pool=name, alarm=sentence)
                    self.events.add("alarm", decision.at, pool=name, alarm=sentence)
            self.alarms[name] = decision.alarms

    def health(self, before: PoolDecision | None, after: PoolDecision) -> None:
        """Every endpoint whose health changed, with the reason."""
        for endpoint_id, row, old in changed_health(before, after):
            names = {"before": Health(old).name.lower(), "after": Health(int(after.health[row])).name.lower()}
            told = {"endpoint": endpoint_id, "pool": after.pool, **names, "reason": reason(after, row)}
            log.info("endpoint.health", **told)
            self.events.add("health", after.at, **told)

    def drain(self, drain: Drain) -> None:
        """A drain began."""
        told = {"endpoint": drain.id, "reason": drain.reason, "owner": drain.owner}
        deadline_s = round(drain.deadline_at - drain.started_at, 3)
        log.info("drain.started", deadline_s=deadline_s, **told)
        self.events.add("drain", drain.started_at, deadline_s=deadline_s, **told)

    def undrain(self, endpoint_id: str, now: float) -> None:
        """A drain was taken back."""
        log.info("drain.undone", endpoint=endpoint_id)
        self.events.add("undrain", now, endpoint=endpoint_id)

    def strategy(self, pools: list[str], name: str | None, now: float) -> None:
        """A strategy was overridden, or its override cleared (None)."""
        log.info("strategy.override", pools=pools, strategy=name)
        self.events.add("strategy", now, pools=pools, strategy=name)

    def reservation(self, what: str, found: Reservation, now: float) -> None:
        """A reservation was made, extended, released, or has run out; its id is told to nobody here."""
        told = {"reservation": found.name, "pool": found.pool, "endpoints": list(found.endpoints)}
        log.info(f"reservation.{what}", expires_at=found.expires_at, note=found.note, **told)
        self.events.add(what, now, expires_at=found.expires_at, note=found.note, **told)

    def proxy(self, node: NodeInfo, connected: bool, now: float) -> None:
        """A proxy came or went; the server logs it."""
        self.events.add("proxy", now, node=node.id, connected=connected)

    def answer(self, node: NodeInfo, event: Event, now: float) -> None:
        """A proxy accepted or rejected a response; the server logs what it rejected."""
        kind = event.type_url.rpartition(".")[2]
        if isinstance(event, Acked):
            self.metrics.acks.labels(kind).inc()
            return
        self.metrics.nacks.labels(kind).inc()
        self.events.add("nack", now, node=node.id, type=kind, resources=list(event.names), message=event.message)


def listed(ids: list[str]) -> list[str]:
    """Ids for a log line, which has no use for thousands of them; the event has them all."""
    return ids if len(ids) <= LISTED else [*ids[:LISTED], f"… and {len(ids) - LISTED} more"]


def changed_health(before: PoolDecision | None, after: PoolDecision) -> list[tuple[str, int, int]]:
    """Id, row and old health of endpoints that were known and are in another state now."""
    if before is None:
        return []
    if before.ids == after.ids:
        rows = np.flatnonzero(before.health != after.health).tolist()
        return [(after.ids[row], row, int(before.health[row])) for row in rows]
    old = dict(zip(before.ids, before.health.tolist(), strict=True))
    return [
        (endpoint_id, row, old[endpoint_id])
        for row, endpoint_id in enumerate(after.ids)
        if old.get(endpoint_id, int(after.health[row])) != int(after.health[row])
    ]
