"""What outlives a decision: realigned when the fleet changes, and to and from JSON for restarts.

Floats survive JSON bit for bit (Python prints the shortest text that reads back the same), so a restarted
server computes exactly what it would have computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuxds.errors import StateError
from gpuxds.scoring.contract import Health, PoolMemory
from gpuxds.signals.model import Floats, Ints

NO_RAMP = -np.inf


def realign(memory: PoolMemory, ids: tuple[str, ...]) -> PoolMemory:
    """The memory for another list of endpoints; newcomers are WARMING and were never pushed (weight 0)."""
    if memory.ids == ids:
        return memory
    where = {endpoint_id: row for row, endpoint_id in enumerate(memory.ids)}
    rows = np.array([where.get(endpoint_id, -1) for endpoint_id in ids], dtype=np.int64)

    def floats(column: Floats, neutral: float) -> Floats:
        return np.where(rows >= 0, np.append(column, neutral)[rows], neutral)

    def ints(column: Ints, neutral: int) -> Ints:
        return np.where(rows >= 0, np.append(column, neutral)[rows], neutral).astype(np.int64)

    return PoolMemory(
        ids=ids,
        decided_at=memory.decided_at,
        pushed_at=memory.pushed_at,
        frozen_since=memory.frozen_since,
        health=ints(memory.health, Health.WARMING),
        health_since=floats(memory.health_since, memory.decided_at),
        ramp_from=floats(memory.ramp_from, NO_RAMP),
        weights=ints(memory.weights, 0),
        envoy_health=ints(memory.envoy_health, 0),
        columns={name: floats(column, np.nan) for name, column in memory.columns.items()},
        scalars=memory.scalars,
    )


def not_after(memory: PoolMemory, now: float) -> PoolMemory:
    """The memory with no moment later than `now`: after a restart on a clock that was set back, an endpoint
    would otherwise wait for a time that is long to come."""
    return replace(
        memory,
        decided_at=min(memory.decided_at, now),
        pushed_at=min(memory.pushed_at, now),
        frozen_since=min(memory.frozen_since, now),
        health_since=np.minimum(memory.health_since, now),
        ramp_from=np.minimum(memory.ramp_from, now),
    )


def to_json(memory: PoolMemory) -> dict[str, Any]:
    """A document of plain values; NaN and infinity become null and text."""
    return {
        "ids": list(memory.ids),
        "decided_at": memory.decided_at,
        "pushed_at": memory.pushed_at,
        "frozen_since": memory.frozen_since,
        "health": memory.health.tolist(),
        "health_since": numbers(memory.health_since),
        "ramp_from": numbers(memory.ramp_from),
        "weights": memory.weights.tolist(),
        "envoy_health": memory.envoy_health.tolist(),
        "columns": {name: numbers(column) for name, column in memory.columns.items()},
        "scalars": dict(memory.scalars),
    }


def from_json(document: Mapping[str, Any]) -> PoolMemory:
    """From `to_json`. Raises StateError when columns are missing or of unequal length."""
    try:
        memory = PoolMemory(
            ids=tuple(document["ids"]),
            decided_at=float(document["decided_at"]),
            pushed_at=float(document["pushed_at"]),
            frozen_since=float(document["frozen_since"]),
            health=np.array(document["health"], dtype=np.int64),
            health_since=column(document["health_since"]),
            ramp_from=column(document["ramp_from"]),
            weights=np.array(document["weights"], dtype=np.int64),
            envoy_health=np.array(document["envoy_health"], dtype=np.int64),
            columns={str(name): column(values) for name, values in document["columns"].items()},
            scalars={str(name): float(value) for name, value in document["scalars"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StateError(f"not the memory of a pool: {error!r}") from error
    columns = (memory.health, memory.health_since, memory.ramp_from, memory.weights, memory.envoy_health)
    if any(len(values) != len(memory.ids) for values in (*columns, *memory.columns.values())):
        raise StateError("not the memory of a pool: columns of unequal length")
    return memory


def numbers(values: Floats) -> list[float | str | None]:
    """A column for JSON."""
    return [None if np.isnan(v) else float(v) if np.isfinite(v) else str(v) for v in values.tolist()]


def column(values: Sequence[float | str | None]) -> Floats:
    """A column from JSON."""
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
