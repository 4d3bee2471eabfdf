"""Heartbeats: GPU hosts that tell their numbers themselves, because nobody can or should fetch them.

A beat is written to the signals and waits for the next decision, so that thousands a second cost little; only one
from an endpoint that was silent brings the decision forward. An endpoint that lives by heartbeats and was known
before a restart of ours is given `lost_after` to be heard again: that we were away is no fault of its own.

A beat proves that the host lives, and the engine only when it says something of it; when it does not, the scraper
asks the serving port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpuxds.scoring.contract import Health, PoolMemory
from gpuxds.signals.heartbeat import Heartbeat, signals_of
from gpuxds.signals.model import Signal
from gpuxds.signals.store import ALIVE

if TYPE_CHECKING:
    from gpuxds.engine.loop import Engine


@dataclass(frozen=True, slots=True)
class Served:
    """What an endpoint says it serves."""

    model: str | None
    adapters: tuple[str, ...]


@dataclass(slots=True)
class Heartbeats:
    """What endpoints said that is no number, by id."""

    served: dict[str, Served] = field(default_factory=dict)

    def models(self) -> dict[str, str]:
        """Id -> the model it serves."""
        return {endpoint_id: said.model for endpoint_id, said in self.served.items() if said.model}


def beat(engine: Engine, endpoint_id: str, said: Heartbeat) -> None:
    """Take in a heartbeat. Raises NotReady or UnknownEndpoint."""
    endpoint = engine.fleet.by_id.get(endpoint_id)
    if endpoint is None:
        engine.decision_of(endpoint_id)
        return
    now, health = engine.now(), engine.policy.health
    before = engine.store.at(endpoint_id, Signal.HEARTBEAT)
    signals = signals_of(said, health.quarantine_xids, health.drain_xids)
    of_engine = any(value is not None for value in (said.running, said.waiting, said.kv_usage))
    alive = ALIVE if of_engine and not endpoint.metrics.scraped else {}
    engine.store.record(endpoint_id, {**signals, **alive, Signal.HEARTBEAT: 1.0}, now)
    if said.model is not None or said.adapters is not None:
        engine.heartbeats.served[endpoint_id] = Served(said.model, tuple(said.adapters or ()))
    if now - before > engine.policy.signals.heartbeat.stale_after:
        engine.poke()


def expect(engine: Engine) -> None:
    """Start the clock of endpoints that live by heartbeats, served before, and have not been heard since a restart;
    forget what endpoints that left had said."""
    for endpoint in engine.fleet.endpoints:
        if endpoint.metrics.scraped or np.isfinite(engine.store.at(endpoint.id, Signal.HEARTBEAT)):
            continue
        memory = engine.memories.get(endpoint.pool, PoolMemory())
        if endpoint.id in memory.ids and memory.health[memory.ids.index(endpoint.id)] != Health.WARMING:
            engine.store.record(endpoint.id, {Signal.HEARTBEAT: 0.0}, engine.now())
    gone = engine.heartbeats.served.keys() - engine.fleet.by_id.keys()
    for endpoint_id in gone:
        del engine.heartbeats.served[endpoint_id]
