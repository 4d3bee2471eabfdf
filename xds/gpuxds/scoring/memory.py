"""What outlives a decision: realigned when the fleet changes, and to and from JSON for restarts.

Columns are their bytes in base64: bit for bit what they were, so a restarted server computes exactly what it would
have computed, and a hundred times cheaper than numbers as text, since this is done every second.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
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
    """A document of plain values."""
    return {
        "ids": list(memory.ids),
        "decided_at": memory.decided_at,
        "pushed_at": memory.pushed_at,
        "frozen_since": memory.frozen_since,
        "health": packed(memory.health),
        "health_since": packed(memory.health_since),
        "ramp_from": packed(memory.ramp_from),
        "weights": packed(memory.weights),
        "envoy_health": packed(memory.envoy_health),
        "columns": {name: packed(column) for name, column in memory.columns.items()},
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
            health=integers(document["health"]),
            health_since=floats(document["health_since"]),
            ramp_from=floats(document["ramp_from"]),
            weights=integers(document["weights"]),
            envoy_health=integers(document["envoy_health"]),
            columns={str(name): floats(values) for name, values in document["columns"].items()},
            scalars={str(name): float(value) for name, value in document["scalars"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StateError(f"not the memory of a pool: {error!r}") from error
    columns = (memory.health, memory.health_since, memory.ramp_from, memory.weights, memory.envoy_health)
    if any(len(values) != len(memory.ids) for values in (*columns, *memory.columns.values())):
        raise StateError("not the memory of a pool: columns of unequal length")
    return memory


def packed(values: Floats | Ints) -> str:
    """A column for JSON: little-endian, eight bytes each, in base64."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def floats(text: str) -> Floats:
    """A column of floats. Raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)


def integers(text: str) -> Ints:
    """A column of integers. Raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<i8").astype(np.int64)
