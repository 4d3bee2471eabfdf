"""The strategies a pool may name, each with its parameters; what they compute lives in `scoring`.

A policy writes `strategy: gpu_aware`, or a mapping with `name` and parameters. Each model here is one
branch of that union, so that an unknown parameter is an error at its own line.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Parameters(BaseModel):
    """Base of every strategy's parameters: nothing unknown, nothing mutable, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class GpuAware(Parameters):
    """Capacity x fast-first x correction x backlog x compensation; the law simulated on real traces."""

    name: Literal["gpu_aware"] = "gpu_aware"
    fast_first_exponent: float = Field(2.0, ge=0, le=8)
    """How strongly fast GPUs are preferred while the pool is idle; fades to none at saturation. 0 turns it
    off. 2 gave the best e2e p95 in simulation at utilisation 0.7 and 0.85."""
    integral_gain: float = Field(0.03, ge=0, le=0.3)
    """Per second: how fast a slowdown that the priors do not explain is learnt. About 30 times below the
    gain at which weights begin to herd."""
    integral_leak: float = Field(0.01, ge=0, le=1)
    """Per second: how fast what was learnt is forgotten."""
    integral_limit: float = Field(2.0, ge=0, le=5)
    """Bound of the learnt correction in ln(weight); 2 is a factor of 7.4."""
    backlog_tau: float = Field(0.5, gt=0, le=60)
    """Seconds of queued prefill work that halve an endpoint's weight. Below 0.5 weights begin to herd."""
    saturation: float = Field(0.9, gt=0, lt=1)
    """Share of an endpoint's peak rate at which its batch counts as full."""
    least_request_bias: float = Field(1.0, ge=0, le=4)
    """Envoy's active_request_bias for this pool's cluster; weights are compensated for its flattening."""


class FullScan(Parameters):
    """Envoy's least request over all endpoints with equal weights: the honest baseline."""

    name: Literal["full_scan"] = "full_scan"


class LeastLoad(Parameters):
    """The lowest (running + waiting) / capacity is preferred; ties go to the most GPU memory."""

    name: Literal["least_load"] = "least_load"
    others_weight: float = Field(0.1, gt=0, le=1)
    """Weight of every endpoint but the preferred one, which has 1. Small values herd: the preferred one
    takes all traffic until the next push."""


class RoundRobin(Parameters):
    """Envoy's round robin with equal weights."""

    name: Literal["round_robin"] = "round_robin"


class EqualWeighted(Parameters):
    """Weight is the inverse of the requests an endpoint has served in its life, so that totals even out."""

    name: Literal["equal_weighted"] = "equal_weighted"


class WeightedRoundRobin(Parameters):
    """Weights by GPU memory tier and price, fixed by the fleet alone."""

    name: Literal["weighted_round_robin"] = "weighted_round_robin"
    memory_tiers_gb: dict[float, float] = Field(default_factory=lambda: {80.0: 3.0, 40.0: 2.0, 24.0: 1.5})
    """Least memory in GB of one GPU -> weight; below the smallest tier the weight is 1."""
    cheap_below_per_hour: float = Field(1.0, ge=0)
    """Price per hour under which `cheap_factor` applies."""
    cheap_factor: float = Field(1.2, gt=0)
    """Factor for cheap endpoints."""


class LeastConnections(Parameters):
    """Envoy's least request with two random choices and equal weights."""

    name: Literal["least_connections"] = "least_connections"


class LeastResponseTime(Parameters):
    """Weight is the inverse of the latency EWMA."""

    name: Literal["least_response_time"] = "least_response_time"


class PeakEwma(Parameters):
    """Weight is the inverse of latency EWMA x (outstanding + 1)."""

    name: Literal["peak_ewma"] = "peak_ewma"


class AgentScore(Parameters):
    """A weighted sum of availability, success rate and speed."""

    name: Literal["agent_score"] = "agent_score"
    availability: float = Field(0.5, ge=0)
    """Coefficient of 1 - load."""
    success_rate: float = Field(0.3, ge=0)
    """Coefficient of answered / sent."""
    speed: float = Field(0.2, ge=0)
    """Coefficient of `speed_reference` / mean seconds, which is capped at 1."""
    speed_reference: float = Field(60.0, gt=0)
    """Mean seconds per request at which the speed part is 1."""


class ConsistentHash(Parameters):
    """The same key goes to the same endpoint while it can; bounded load spills to the next."""

    name: Literal["consistent_hash"] = "consistent_hash"
    algorithm: Literal["ring_hash", "maglev"] = "ring_hash"
    """Envoy's hash policy."""
    header: str | None = "x-session-id"
    """Request header whose value is the key; null when a cookie is used."""
    cookie: str | None = None
    """Cookie whose value is the key; Envoy sets it when a client has none."""
    hash_balance_factor: int = Field(125, ge=100, le=1000)
    """Most load of an endpoint in percent of the mean before the next one takes over."""


Strategy = Annotated[
    GpuAware
    | FullScan
    | LeastLoad
    | RoundRobin
    | EqualWeighted
    | WeightedRoundRobin
    | LeastConnections
    | LeastResponseTime
    | PeakEwma
    | AgentScore
    | ConsistentHash,
    Field(discriminator="name"),
]

NAMES: tuple[str, ...] = (
    "gpu_aware",
    "full_scan",
    "least_load",
    "round_robin",
    "equal_weighted",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "peak_ewma",
    "agent_score",
    "consistent_hash",
)
