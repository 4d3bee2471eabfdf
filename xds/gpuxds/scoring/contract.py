"""The vocabulary of scoring: what a strategy sees, what it answers, and what a decision is.

All arrays are float64 or integers over the endpoints of one pool, in the order of `ids`. Nobody mutates an
array it was handed. A strategy answers with named factors; their product is the weight, so the product *is*
the explanation. What must outlive a decision (integrals, health, what was last pushed) is `PoolMemory`,
handed in and handed back, so that a test can build any history and a restart can continue one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.priors import PriorColumns
from gpuxds.signals.model import Bools, Floats, Ints, SignalView


class Health(IntEnum):
    """Where an endpoint is in its life."""

    WARMING = 0
    """Known, but has not answered yet."""
    SERVING = 1
    SUSPECT = 2
    """Silent once; still gets traffic."""
    FAILED = 3
    QUARANTINED = 4
    """Its hardware reports a fault."""
    DRAINING = 5
    """No new requests; those in flight finish."""
    DRAINED = 6
    """Nothing in flight on fresh data; leaves EDS."""


class EnvoyHealth(IntEnum):
    """envoy.config.core.v3.HealthStatus, the values that are ever sent."""

    HEALTHY = 1
    UNHEALTHY = 2
    DRAINING = 3


@dataclass(frozen=True, slots=True)
class Drain:
    """An endpoint that is to be taken out of service."""

    id: str
    started_at: float
    deadline_at: float
    reason: str
    owner: str
    """`operator`, or the rule that asked for it."""


@dataclass(frozen=True, slots=True)
class PoolInputs:
    """Everything a strategy may look at."""

    ids: tuple[str, ...]
    now: float
    capacity: Floats
    """Requests each endpoint can run at once."""
    memory_gb: Floats
    """GPU memory of each endpoint, all its GPUs together."""
    memory_per_gpu_gb: Floats
    price_per_hour: Floats
    """NaN where unknown."""
    priors: PriorColumns
    """After the hardware's speed factor was applied."""
    homogeneous: bool
    """All endpoints have identical hardware as declared."""
    view: SignalView
    usable: Bools
    """Endpoints that may take new requests."""
    relaxation: Floats
    """0 while an endpoint's load is fresh, rising to 1 as it goes blind; weights go to the baseline with it."""
    proxies: int
    """Envoys that balance over this pool (E of the law), at least 1."""
    prompt_tokens: float
    """Mean prompt tokens per request, fleet-wide."""
    output_tokens: float
    """Mean output tokens per request, fleet-wide."""


@dataclass(frozen=True, slots=True)
class Term:
    """One factor of a weight."""

    name: str
    values: Floats
    why: str
    """One sentence for people: what the factor is for."""
    inputs: Mapping[str, Floats] = field(default_factory=dict)
    """What went into it, by name with unit, per endpoint; shown by `explain`."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """A strategy's answer. The product of `terms` is proportional to the weight; every value is > 0."""

    terms: tuple[Term, ...]
    carried: Mapping[str, Floats] = field(default_factory=dict)
    """Columns the strategy wants back next time (for example its integral)."""
    carried_scalars: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the pool it wants back next time (for example the smoothed utilisation)."""
    equal: bool = False
    """The strategy asks for one number for all, so that Envoy compares hosts by their requests alone."""
    note: str = ""
    """A sentence on the pool as a whole, for people."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a strategy handed back last time, aligned to today's endpoints (NaN where an endpoint is new)."""

    columns: Mapping[str, Floats]
    scalars: Mapping[str, float]
    elapsed_s: float
    """Seconds since then; 0 the first time."""


class WeightFunction(Protocol):
    """A strategy's weight function. Pure; answers for all endpoints, usable or not."""

    def __call__(self, inputs: PoolInputs, carried: Carried) -> Weighing:
        """Factors whose product is proportional to each endpoint's weight."""
        ...


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What outlives a decision, by endpoint id; survives restarts as JSON (`scoring.memory`)."""

    ids: tuple[str, ...] = ()
    decided_at: float = 0.0
    pushed_at: float = 0.0
    """Unix seconds of the last push of weights."""
    frozen_since: float = 0.0
    """Unix seconds since when the pool is frozen; 0: it is not."""
    health: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    health_since: Floats = field(default_factory=lambda: np.zeros(0))
    ramp_from: Floats = field(default_factory=lambda: np.zeros(0))
    """Unix seconds at which the ramp began; -inf: none."""
    weights: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """What Envoy was last told."""
    envoy_health: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    columns: Mapping[str, Floats] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """What follows for one pool, and why."""

    pool: str
    cluster: str
    """Envoy's name for these endpoints: the pool's, or that of one of its slices."""
    strategy: str
    at: float
    endpoints: tuple[Endpoint, ...]
    ids: tuple[str, ...]
    weights: Ints
    """In force, as Envoy is told: 1..scale."""
    wanted: Ints
    """What the signals say now; in force once it leaves the dead-band."""
    health: Ints
    """`Health` per endpoint."""
    envoy_health: Ints
    """`EnvoyHealth` per endpoint."""
    in_eds: Bools
    """Whether the endpoint is in this cluster's assignment at all: it has an IP, is not drained, and is not
    reserved for another cluster."""
    reserved: Bools
    """Endpoints that are in another cluster, of their own, and so not in this one."""
    terms: tuple[Term, ...]
    """All factors, the strategy's first, then ramp; their product is proportional to `wanted`."""
    cause: Ints
    """`health.Cause` per endpoint: why it is in its health; `explain.reason` says it in words."""
    equal: bool
    """One weight for all, so that Envoy compares hosts by their requests alone."""
    note: str
    """A sentence on the pool as a whole."""
    proxies: int
    """Envoys the weights are for."""
    view: SignalView
    relaxation: Floats
    push: bool
    """Something Envoy must be told changed."""
    push_reason: str
    """`health`, `membership`, `weights`, or empty."""
    frozen: bool
    alarms: tuple[str, ...]
    """Sentences for the log: ejection cap reached, last endpoint kept, freeze."""
    memory: PoolMemory
    """Hand this back next time."""

    @property
    def serving(self) -> Bools:
        """Endpoints that take new requests, of everybody or of whoever reserved them."""
        found: Bools = (self.envoy_health == EnvoyHealth.HEALTHY) & (self.in_eds | self.reserved)
        return found
