"""Who does how much: each endpoint's load, and the fleet in a few numbers.

Counts are those of the proxies as they were last told, however long ago: an endpoint that nobody asked anything of
for an hour has still answered what it answered. What can go stale has its age beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuxds.admin.views import capacity_of
from gpuxds.engine.loop import Engine
from gpuxds.scoring.contract import PoolDecision
from gpuxds.signals.model import Signal


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
    return {
        "instance": endpoint.id,
        "pool": endpoint.pool,
        "provider": endpoint.labels.get("provider"),
        "active": counted(decision, row, Signal.PROXY_ACTIVE),
        "running": view.value_at(Signal.RUNNING, row),
        "waiting": view.value_at(Signal.WAITING, row),
        "capacity": capacity_of(decision, row),
        "total": counted(decision, row, Signal.PROXY_ISSUED),
        "failed": counted(decision, row, Signal.PROXY_ERRORS),
        "average_response_s": first_known(
            view.value_at(Signal.PROXY_LATENCY_S, row), view.value_at(Signal.LATENCY_S, row)
        ),
        "last_response_s": first_known(
            counted(decision, row, Signal.PROXY_LAST_S), counted(decision, row, Signal.LAST_LATENCY_S)
        ),
        "weight": int(decision.weights[row]),
        "healthy": bool(decision.serving[row]),
        "last_report_s": view.age_at(Signal.PROXY_ACTIVE, row),
        "last_used_s": view.age_at(Signal.LAST_USED, row),
    }


def counted(decision: PoolDecision, row: int, signal: Signal) -> float:
    """The last value whatever its age; NaN when there never was one."""
    return float(decision.view.values[signal, row])


def first_known(*values: float) -> float:
    """The first that is a number; NaN when none is."""
    return next((value for value in values if not math.isnan(value)), math.nan)


def load_balancer(engine: Engine) -> dict[str, Any]:
    """The fleet in a few numbers, and every endpoint's work; what is not known counts as nothing in the totals."""
    rows = [(decision, row) for decision in engine.decisions.values() for row in range(len(decision.ids))]
    agents = [agent(decision, row) for decision, row in rows]

    def total(signal: Signal) -> float:
        return float(np.nansum([counted(decision, row, signal) for decision, row in rows]))

    def of_agents(name: str) -> float:
        return float(np.nansum([row[name] for row in agents]))

    retries = [counted(decision, row, Signal.PROXY_RETRIES) for decision, row in rows]
    capacity, load = int(of_agents("max")), of_agents("current")
    totals = {
        "agents": len(agents),
        "healthy": sum(row["healthy"] for row in agents),
        "capacity": capacity,
        "load": load,
        "utilisation_percent": 100 * load / capacity if capacity else 0.0,
        "waiting": float(np.nansum([decision.view.value_at(Signal.WAITING, row) for decision, row in rows])),
        "assigned": total(Signal.PROXY_ISSUED),
        "completed": of_agents("completed"),
        "failed": of_agents("failed"),
        "retried": None if np.isnan(retries).all() else float(np.nansum(retries)),
    }
    return {"totals": totals, "agents": agents}


def agent(decision: PoolDecision, row: int) -> dict[str, Any]:
    """One endpoint's work, as proxies count it, or as it says itself where no proxy ever did."""
    load = instance(decision, row)
    completed, failed = (counted(decision, row, signal) for signal in (Signal.PROXY_OK, Signal.PROXY_ERRORS))
    if math.isnan(completed):
        failed = counted(decision, row, Signal.FAILURES_TOTAL)
        completed = counted(decision, row, Signal.REQUESTS_TOTAL) - (0.0 if math.isnan(failed) else failed)
    tried = completed + (0.0 if math.isnan(failed) else failed)
    current = load["running"] + load["waiting"]
    return {
        "agent": load["instance"],
        "pool": load["pool"],
        "current": current,
        "max": load["capacity"],
        "load_percent": 100 * current / load["capacity"],
        "completed": completed,
        "failed": failed,
        "success_rate": completed / tried if tried > 0 else None,
        "average_s": load["average_response_s"],
        "score": float(decision.weights[row]) / max(1, int(decision.weights.max())),
        "healthy": load["healthy"],
    }
