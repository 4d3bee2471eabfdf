"""What the API answers, built from the last decision: plain values that JSON can carry.

NaN and infinity have no place in JSON, so a number that is not known is null. Ages come with values
everywhere, because a number whose age is hidden is a claim.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuxds.engine.guards import described
from gpuxds.engine.loop import Engine
from gpuxds.fleet.reservation import Reservation
from gpuxds.policy.model import Policy
from gpuxds.policy.rules import rules
from gpuxds.policy.slices import reserved_of
from gpuxds.scoring.contract import Drain, EnvoyHealth, Health, PoolDecision
from gpuxds.scoring.explain import explain, medians, reason
from gpuxds.signals.model import Signal
from gpuxds.signals.recording import dump


def plain(value: Any) -> Any:
    """A value with nothing in it that JSON cannot carry."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def pool_summary(decision: PoolDecision, overridden: Container[str] = ()) -> dict[str, Any]:
    """A pool in a few numbers."""
    return {
        "pool": decision.pool,
        "strategy": decision.strategy,
        "strategy_source": "override" if decision.pool in overridden else "policy",
        "endpoints": len(decision.ids),
        "healthy": int(decision.serving.sum()),
        "frozen": decision.frozen,
        "alarms": list(decision.alarms),
        "decided_at": decision.at,
        "note": decision.note,
    }


def endpoint_row(
    engine: Engine,
    decision: PoolDecision,
    row: int,
    middles: tuple[float, ...],
    guards: Mapping[str, Mapping[str, Any]],
    holders: Mapping[str, Reservation],
) -> dict[str, Any]:
    """One endpoint as `endpoints` lists it; `middles` are the decision's medians, guards and reservations by id."""
    endpoint = decision.endpoints[row]
    drain, held = engine.drains.by_id.get(endpoint.id), holders.get(endpoint.id)
    served = engine.heartbeats.served.get(endpoint.id)
    reason_text = reason(decision, row, middles) + said(drain)
    if held is not None and endpoint.id in (part := engine.parts.get(reserved_of(held), decision)).ids:
        decision, row = part, part.ids.index(endpoint.id)
    return {
        "id": endpoint.id,
        "pool": endpoint.pool,
        "cluster": decision.cluster,
        "address": f"[{endpoint.host}]:{endpoint.port}"
        if ":" in endpoint.host
        else f"{endpoint.host}:{endpoint.port}",
        "ip": endpoint.ip,
        "gpu": asdict(endpoint.gpu),
        "capacity": capacity_of(decision, row),
        "labels": dict(endpoint.labels),
        "source": endpoint.source,
        "health": Health(int(decision.health[row])).name.lower(),
        "envoy_health": EnvoyHealth(int(decision.envoy_health[row])).name,
        "in_eds": bool(decision.in_eds[row]),
        "weight": int(decision.weights[row]),
        "wanted": int(decision.wanted[row]),
        "reason": reserved(held) + reason_text,
        "signals": {signal.name.lower(): decision.view.value_at(signal, row) for signal in IN_ROW},
        "load_age_s": decision.view.age_at(Signal.RUNNING, row),
        "drain": None if drain is None else asdict(drain),
        "reservation": None
        if held is None
        else {"name": held.name, "expires_at": held.expires_at, "note": held.note},
        "model": served.model if served else None,
        "adapters": list(served.adapters) if served else [],
        "guard": guards.get(endpoint.id),
    }


def reserved(held: Reservation | None) -> str:
    """The beginning of a reason, for an endpoint that is reserved."""
    if held is None:
        return ""
    return f"reserved as {held.name}{' (' + held.note + ')' if held.note else ''}; "


def pulse(engine: Engine, endpoint_id: str) -> dict[str, Any]:
    """What a heartbeat is answered with; cheap, since thousands come a second."""
    decision = engine.decisions.get(engine.fleet.by_id[endpoint_id].pool)
    row = engine.rows.get(endpoint_id, 0)
    known = decision is not None and row < len(decision.ids) and decision.ids[row] == endpoint_id
    return {
        "id": endpoint_id,
        "health": Health(int(decision.health[row])).name.lower() if decision and known else None,
        "weight": int(decision.weights[row]) if decision and known else None,
        "lost_after_s": engine.policy.signals.heartbeat.lost_after,
    }


def capacity_of(decision: PoolDecision, row: int) -> int:
    """What it says itself, else what it was declared with."""
    told = decision.view.value_at(Signal.CAPACITY, row)
    return decision.endpoints[row].capacity if math.isnan(told) else int(told)


def said(drain: Drain | None) -> str:
    """What the operator said of a drain, to be added to the reason."""
    return f": {drain.reason}" if drain is not None and drain.reason else ""


def one(engine: Engine, endpoint_id: str) -> dict[str, Any]:
    """One endpoint. Raises UnknownEndpoint."""
    decision = engine.decision_of(endpoint_id)
    row, holders = decision.ids.index(endpoint_id), engine.reservations.holders(engine.fleet)
    return endpoint_row(engine, decision, row, medians(decision), described(engine), holders)


IN_ROW = (
    Signal.RUNNING,
    Signal.WAITING,
    Signal.KV_USAGE,
    Signal.TTFT_S,
    Signal.ITL_S,
    Signal.LATENCY_S,
    Signal.PROXY_ACTIVE,
)


def endpoints(engine: Engine) -> dict[str, Any]:
    """Every endpoint, and every pool in a few numbers."""
    guards, holders = described(engine), engine.reservations.holders(engine.fleet)
    rows = [
        endpoint_row(engine, decision, row, middles, guards, holders)
        for decision in engine.decisions.values()
        for middles in (medians(decision),)
        for row in range(len(decision.ids))
    ]
    return {"pools": [pool_summary(d, engine.overrides) for d in engine.decisions.values()], "endpoints": rows}


def explained(
    policy: Policy,
    decisions: Sequence[PoolDecision],
    endpoint_id: str | None,
    drains: Mapping[str, Drain],
    overridden: Container[str] = (),
    held: Mapping[str, Reservation] = MappingProxyType({}),
    guards: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Why each weight is what it is, for all endpoints or one, once for each cluster it is in, and what else holds
    for a pool's requests.

    `held` maps the endpoints that are reserved to their reservations, `guards` those with guards to their limits.
    """
    rows = [
        {
            "pool": decision.pool,
            "cluster": decision.cluster,
            **asdict(found),
            "reason": reserved(held.get(found.id)) + found.reason + said(drains.get(found.id)),
            "guard": guards.get(found.id),
        }
        for decision in decisions
        for found in explain(decision, endpoint_id)
        if decision.cluster != decision.pool or found.id not in held
    ]
    pools = [pool_summary(decision, overridden) for decision in decisions if decision.cluster == decision.pool]
    told = [{"pool": pool.name, "rules": rules(policy, pool)} for pool in policy.pools]
    return {"pools": pools, "rules": told, "endpoints": rows}


def strategies(engine: Engine) -> dict[str, Any]:
    """How every pool's load is spread, and who said so."""
    return {
        "pools": [
            {
                "pool": pool.name,
                "strategy": pool.strategy.model_dump(mode="json"),
                "source": "override" if pool.name in engine.overrides else "policy",
            }
            for pool in engine.policy.pools
        ]
    }


def signals(engine: Engine) -> dict[str, Any]:
    """The signals the last decisions stood on, in the form `gpuxds explain POLICY --signals FILE` reads."""
    documents = [dump(decision.view) for decision in engine.decisions.values()]
    endpoints = {name: found for document in documents for name, found in document["endpoints"].items()}
    return {"now": max((document["now"] for document in documents), default=0.0), "endpoints": endpoints}


def policy(engine: Engine) -> dict[str, Any]:
    """The policy in force and the last attempt to change it."""
    last = engine.holder.last
    return {
        "path": str(engine.holder.path),
        "digest": engine.holder.current.digest,
        "last_reload": {
            "at": last.at,
            "ok": last.ok,
            "changed": list(last.changed),
            "problems": [str(problem) for problem in last.problems],
        },
        "reload_failures": engine.holder.failures,
        "fleet_problems": [str(problem) for problem in engine.sources.problems],
        "overrides": [found for found in strategies(engine)["pools"] if found["source"] == "override"],
        "policy": engine.policy.model_dump(mode="json"),
    }


def proxies(engine: Engine) -> dict[str, Any]:
    """Every connected proxy: what it was sent, accepted and rejected."""
    return {"proxies": [asdict(status) for status in engine.server.proxies()]}
