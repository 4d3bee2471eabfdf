"""Which endpoints a reservation gets: those that match, the cheapest and least busy first, above the pool's floor.

Cheapest first, since nothing better than what was asked for is asked for; then the smallest memory, so that large
GPUs stay with those who need them; then the least loaded, since requests that run there go on beside the holder's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuxds.scoring.contract import EnvoyHealth, Health, PoolDecision
from gpuxds.signals.model import Signal

LISTED = 20
"""Endpoints whose reason is told one by one."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What an endpoint must be; None: anything."""

    min_vram_gb: float | None = None
    """Of all GPUs of the endpoint together."""
    max_price: float | None = None
    """Per hour, in the policy's currency."""
    provider: str | None = None
    region: str | None = None
    model: str | None = None
    """A GPU model, with or without its memory (H100 or H100-80), or a model the endpoint says it serves."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Endpoints to reserve, best first, and a sentence for each reason why there are not more."""

    ids: tuple[str, ...]
    reasons: tuple[str, ...]


def choose(
    decision: PoolDecision,
    filters: Filters,
    count: int,
    floor: int,
    served: Mapping[str, str],
    held: frozenset[str],
) -> Choice:
    """Up to `count` endpoints of a pool, which keeps at least `floor` that serve everybody.

    `served` maps ids to the model they say they serve; `held` are reserved already.
    """
    misfits = {
        row: why for row in range(len(decision.ids)) if (why := misfit(decision, row, filters, served, held))
    }
    fitting = sorted(
        (row for row in range(len(decision.ids)) if row not in misfits), key=lambda r: order(decision, r)
    )
    shared = int(((decision.envoy_health == EnvoyHealth.HEALTHY) & decision.in_eds).sum())
    spare = max(0, shared - floor)
    chosen = fitting[: min(count, spare)]
    reasons = []
    if len(chosen) < min(count, len(fitting)):
        reasons.append(
            f"pool {decision.pool} keeps {floor} of its {shared} serving endpoints for everybody (floor)"
        )
    if len(fitting) < count:
        told = [f"{decision.ids[row]} {why}" for row, why in misfits.items()]
        reasons += told[:LISTED] + ([f"{len(told) - LISTED} more do not fit"] if len(told) > LISTED else [])
    return Choice(tuple(decision.ids[row] for row in chosen), tuple(reasons))


def misfit(
    decision: PoolDecision, row: int, filters: Filters, served: Mapping[str, str], held: frozenset[str]
) -> str:
    """Why an endpoint cannot be had; empty when it can."""
    endpoint = decision.endpoints[row]
    vram_gb = endpoint.gpu.memory_gb * endpoint.gpu.count
    if filters.min_vram_gb is not None and vram_gb < filters.min_vram_gb:
        return f"has {vram_gb:g} GB, less than min_vram {filters.min_vram_gb:g}"
    if filters.max_price is not None and endpoint.price_per_hour is None:
        return f"has no known price, and max_price is {filters.max_price:g}"
    if filters.max_price is not None and (endpoint.price_per_hour or 0.0) > filters.max_price:
        return f"costs {endpoint.price_per_hour:g} per hour, more than max_price {filters.max_price:g}"
    for name, wanted in (("provider", filters.provider), ("region", filters.region)):
        if wanted is not None and endpoint.labels.get(name) != wanted:
            return f"has {name} {endpoint.labels.get(name) or 'unknown'}, not {wanted}"
    if filters.model is not None and not is_model(filters.model, endpoint.gpu.model, served.get(endpoint.id)):
        return f"is a {endpoint.gpu.model}, not {filters.model}"
    if endpoint.id in held:
        return "is reserved already"
    health = Health(int(decision.health[row]))
    if health is not Health.SERVING or not decision.in_eds[row]:
        return f"is {health.name.lower()}" if health is not Health.SERVING else "has no address yet"
    return ""


def is_model(wanted: str, gpu: str, served: str | None) -> bool:
    """Whether a GPU model, with or without its memory, or the served model is the wanted one."""
    names = {gpu.lower(), gpu.lower().partition("-")[0], (served or gpu).lower()}
    return wanted.lower() in names


def order(decision: PoolDecision, row: int) -> tuple[float, float, float, str]:
    """Price, memory, load in requests per capacity, id; what is not known comes last."""
    endpoint = decision.endpoints[row]
    price = np.inf if endpoint.price_per_hour is None else endpoint.price_per_hour
    load = decision.view.value_at(Signal.RUNNING, row) + decision.view.value_at(Signal.WAITING, row)
    busy = np.inf if np.isnan(load) else load / endpoint.capacity
    return price, endpoint.gpu.memory_gb * endpoint.gpu.count, busy, endpoint.id
