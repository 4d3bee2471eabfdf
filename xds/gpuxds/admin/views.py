"""What the API answers, built from the last decision: plain values that JSON can carry.

NaN and infinity have no place in JSON, so a number that is not known is null. Ages come with values
everywhere, because a number whose age is hidden is a claim.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from gpuxds.engine.loop import Engine
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
        "healthy": int(((decision.envoy_health == EnvoyHealth.HEALTHY) & decision.in_eds).sum()),
        "frozen": decision.frozen,
        "alarms": list(decision.alarms),
        "decided_at": decision.at,
        "note": decision.note,
    }


def endpoint_row(engine: Engine, decision: PoolDecision, row: int, middles: tuple[float, ...]) -> dict[str, Any]:
    """One endpoint as `endpoints` lists it; `middles` are the decision's medians."""
    endpoint = decision.endpoints[row]
    drain = engine.drains.by_id.get(endpoint.id)
    return {
        "id": endpoint.id,
        "pool": endpoint.pool,
        "address": f"[{endpoint.host}]:{endpoint.port}"
        if ":" in endpoint.host
        else f"{endpoint.host}:{endpoint.port}",
        "ip": endpoint.ip,
        "gpu": asdict(endpoint.gpu),
        "capacity": endpoint.capacity,
        "labels": dict(endpoint.labels),
        "source": endpoint.source,
        "health": Health(int(decision.health[row])).name.lower(),
        "envoy_health": EnvoyHealth(int(decision.envoy_health[row])).name,
        "in_eds": bool(decision.in_eds[row]),
        "weight": int(decision.weights[row]),
        "wanted": int(decision.wanted[row]),
        "reason": reason(decision, row, middles) + said(drain),
        "signals": {signal.name.lower(): decision.view.value_at(signal, row) for signal in IN_ROW},
        "load_age_s": decision.view.age_at(Signal.RUNNING, row),
        "drain": None if drain is None else asdict(drain),
    }


def said(drain: Drain | None) -> str:
    """What the operator said of a drain, to be added to the reason."""
    return f": {drain.reason}" if drain is not None and drain.reason else ""


def one(engine: Engine, endpoint_id: str) -> dict[str, Any]:
    """One endpoint. Raises UnknownEndpoint."""
    decision = engine.decision_of(endpoint_id)
    return endpoint_row(engine, decision, decision.ids.index(endpoint_id), medians(decision))


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
    rows = [
        endpoint_row(engine, decision, row, middles)
        for decision in engine.decisions.values()
        for middles in (medians(decision),)
        for row in range(len(decision.ids))
    ]
    return {"pools": [pool_summary(d, engine.overrides) for d in engine.decisions.values()], "endpoints": rows}


def explained(
    decisions: Sequence[PoolDecision],
    endpoint_id: str | None,
    drains: Mapping[str, Drain],
    overridden: Container[str] = (),
) -> dict[str, Any]:
    """Why each weight is what it is, for all endpoints or one."""
    rows = [
        {"pool": decision.pool, **asdict(found), "reason": found.reason + said(drains.get(found.id))}
        for decision in decisions
        for found in explain(decision, endpoint_id)
    ]
    return {"pools": [pool_summary(decision, overridden) for decision in decisions], "endpoints": rows}


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


def instances(engine: Engine, only: str | None) -> list[dict[str, Any]]:
    """Every endpoint's load, or that of one."""
    return [
        instance(decision, row)
        for decision in engine.decisions.values()
        for row, endpoint_id in enumerate(decision.ids)
        if only in (None, endpoint_id)
    ]


def instance(decision: PoolDecision, row: int) -> dict[str, Any]:
    """One endpoint's load."""
    endpoint, view = decision.endpoints[row], decision.view

    def value(signal: Signal) -> float:
        return view.value_at(signal, row)

    return {
        "instance": endpoint.id,
        "pool": endpoint.pool,
        "provider": endpoint.labels.get("provider"),
        "active": value(Signal.PROXY_ACTIVE),
        "running": value(Signal.RUNNING),
        "waiting": value(Signal.WAITING),
        "capacity": endpoint.capacity,
        "total": value(Signal.PROXY_ISSUED),
        "failed": value(Signal.PROXY_ERRORS),
        "average_response_s": value(Signal.LATENCY_S),
        "weight": int(decision.weights[row]),
        "healthy": bool(decision.in_eds[row] and decision.envoy_health[row] == EnvoyHealth.HEALTHY),
        "last_report_s": view.age_at(Signal.PROXY_ACTIVE, row),
    }


def load_balancer(engine: Engine) -> dict[str, Any]:
    """The fleet in a few numbers, and every endpoint's load; what is not known counts as nothing here."""
    rows = instances(engine, None)

    def total(*names: str) -> float:
        return float(sum(row[name] for row in rows for name in names if not math.isnan(row[name])))

    capacity, load = int(total("capacity")), total("running", "waiting")
    totals = {
        "agents": len(rows),
        "healthy": sum(row["healthy"] for row in rows),
        "capacity": capacity,
        "load": load,
        "utilisation_percent": 100 * load / capacity if capacity else 0.0,
        "waiting": total("waiting"),
        "sent": total("total"),
        "failed": total("failed"),
    }
    return {"totals": totals, "agents": rows}


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
        "policy": engine.policy.model_dump(mode="json"),
    }


def proxies(engine: Engine) -> dict[str, Any]:
    """Every connected proxy: what it was sent, accepted and rejected."""
    return {"proxies": [asdict(status) for status in engine.server.proxies()]}
