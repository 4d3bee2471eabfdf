"""What the API answers, as types: views build them, JSON carries them, and OpenAPI is generated from them.

A number that is not known is null, never 0 and never absent.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gpuxds.discovery.events import ProxyStatus

HealthName = Literal["warming", "serving", "suspect", "failed", "quarantined", "draining", "drained"]
EnvoyHealthName = Literal["HEALTHY", "UNHEALTHY", "DRAINING"]
strict = ConfigDict(extra="forbid")


@dataclass(config=strict)
class Problem:
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    """A sentence that helps."""
    instance: str
    """The path that was asked."""


@dataclass(config=strict)
class Pool:
    """A pool in a few numbers."""

    pool: str
    strategy: str
    strategy_source: Literal["policy", "override"]
    endpoints: int
    healthy: int
    """Endpoints that take new requests."""
    frozen: bool
    alarms: list[str]
    decided_at: float
    """Unix seconds."""
    note: str


@dataclass(config=strict)
class PoolStrategy:
    """How one pool's load is spread."""

    pool: str
    strategy: dict[str, Any]
    """Name and parameters."""
    source: Literal["policy", "override"]


@dataclass(config=strict)
class Strategies:
    """How every pool's load is spread."""

    pools: list[PoolStrategy]


@dataclass(config=strict)
class Instance:
    """One endpoint's load as proxies and its engine count it."""

    instance: str
    pool: str
    provider: str | None
    """The endpoint's label `provider`."""
    active: float | None
    """Requests in flight as proxies count them."""
    running: float | None
    waiting: float | None
    capacity: int
    total: float | None
    """Requests proxies sent, since this server started."""
    failed: float | None
    average_response_s: float | None
    """Mean end-to-end latency over the last seconds: as clients see it where access logs are on, else as the engine
    measures it."""
    last_response_s: float | None
    """End-to-end latency of the last request, or of those that finished last together, from the same source."""
    weight: int
    healthy: bool
    last_report_s: float | None
    """Age of the last load report about it."""
    last_used_s: float | None
    """Seconds since a proxy last said that it had sent it a request."""


@dataclass(config=strict)
class Loads:
    """Every endpoint's load."""

    instances: list[Instance]


@dataclass(config=strict)
class Totals:
    """The fleet in a few numbers; what is not known counts as nothing, and is null where nothing is known."""

    agents: int
    healthy: int
    capacity: int
    load: float
    """Requests running and waiting, as far as known."""
    utilisation_percent: float
    waiting: float
    assigned: float
    """Requests that proxies sent."""
    completed: float
    failed: float
    retried: float | None
    """Further tries of requests; null without access logs, which alone tell."""


@dataclass(config=strict)
class Agent:
    """One endpoint's work."""

    agent: str
    pool: str
    current: float | None
    """Requests running and waiting there."""
    max: int
    """Its capacity."""
    load_percent: float | None
    completed: float | None
    """Requests answered: as proxies count, or as its heartbeats say."""
    failed: float | None
    success_rate: float | None
    """completed / (completed + failed), 0..1."""
    average_s: float | None
    """Mean end-to-end latency over the last seconds."""
    score: float
    """Its weight over the largest of its pool, 0..1."""
    healthy: bool


@dataclass(config=strict)
class LoadBalancer:
    """The fleet in a few numbers, and every endpoint's work."""

    totals: Totals
    agents: list[Agent]


@dataclass(config=strict)
class Gpu:
    """Hardware of an endpoint."""

    model: str
    memory_gb: float
    count: int


@dataclass(config=strict)
class Load:
    """The signals an endpoint's row shows; null where absent."""

    running: float | None
    waiting: float | None
    kv_usage: float | None
    ttft_s: float | None
    itl_s: float | None
    latency_s: float | None
    proxy_active: float | None


@dataclass(config=strict)
class Drain:
    """A drain in force."""

    id: str
    started_at: float
    deadline_at: float
    reason: str
    owner: str


@dataclass(config=strict)
class Held:
    """The reservation an endpoint serves."""

    name: str
    expires_at: float
    note: str


@dataclass(config=strict)
class Guard:
    """The exact limit of an endpoint, and who enforces it."""

    port: int
    """Where its guard listens."""
    capacity: int
    """Requests that run at once at most."""
    max_waiting: int
    wait_s: float
    connected: int
    """Guards of it that are connected; with none, proxies reach nobody, and with two, twice as much may run."""


@dataclass(config=strict)
class Endpoint:
    """One endpoint."""

    id: str
    pool: str
    cluster: str
    """The Envoy cluster its weight is in: the pool's, or its reservation's."""
    address: str
    ip: str | None
    gpu: Gpu
    capacity: int
    labels: dict[str, str]
    source: str
    health: HealthName
    envoy_health: EnvoyHealthName
    in_eds: bool
    weight: int
    """As proxies are told."""
    wanted: int
    """What the signals ask for now."""
    reason: str
    signals: Load
    load_age_s: float | None
    drain: Drain | None
    reservation: Held | None
    """Set while it serves one holder only."""
    model: str | None
    """The model it says it serves."""
    adapters: list[str]
    """LoRA adapters it says it serves."""
    guard: Guard | None
    acknowledged: bool | None = None
    """In the answer to a drain: every connected proxy has accepted it."""


@dataclass(config=strict)
class Endpoints:
    """Every endpoint, and every pool in a few numbers."""

    pools: list[Pool]
    endpoints: list[Endpoint]


@dataclass(config=strict)
class Removed:
    """Answer to a removal."""

    id: str
    gone: bool
    """False: it is being drained and goes then."""


@dataclass(config=strict)
class Undrained:
    """Answer to an undrain."""

    id: str
    was_draining: bool


@dataclass(config=strict)
class Pulse:
    """Answer to a heartbeat."""

    id: str
    health: HealthName | None
    """As of the last decision; null before the first."""
    weight: int | None
    lost_after_s: float
    """Silence after which the endpoint is out of service."""


@dataclass(config=strict)
class Term:
    """One factor of one weight."""

    name: str
    value: float | None
    why: str
    inputs: dict[str, float | None]


@dataclass(config=strict)
class Input:
    """One signal of one endpoint."""

    name: str
    value: float | None
    age_s: float | None
    freshness: Literal["fresh", "stale", "absent"]


@dataclass(config=strict)
class Explanation:
    """Why one weight is what it is."""

    id: str
    pool: str
    cluster: str
    """The Envoy cluster this weight is in: the pool's, or that of one of its slices."""
    health: HealthName
    envoy_health: EnvoyHealthName
    weight: int
    wanted: int
    share: float | None
    relaxation: float | None
    terms: list[Term]
    product: float | None
    inputs: list[Input]
    reason: str
    guard: Guard | None


@dataclass(config=strict)
class Rules:
    """What the policy makes Envoy do with a pool's requests, beside choosing an endpoint."""

    pool: str
    rules: list[str]


@dataclass(config=strict)
class Explained:
    """Why each weight is what it is."""

    pools: list[Pool]
    rules: list[Rules]
    endpoints: list[Explanation]


@dataclass(config=strict)
class Proxies:
    """Connected proxies."""

    proxies: list[ProxyStatus]


@dataclass(config=strict)
class Reload:
    """The last attempt to load the policy."""

    at: float
    ok: bool
    changed: list[str]
    problems: list[str]


@dataclass(config=strict)
class Policy:
    """The policy in force."""

    path: str
    digest: str
    last_reload: Reload
    reload_failures: int
    fleet_problems: list[str]
    overrides: list[PoolStrategy]
    """Strategies set while the server runs, in place of the policy's."""
    policy: dict[str, Any]


@dataclass
class Event:
    """Something that happened; further fields depend on the kind."""

    id: int
    at: float
    kind: Literal[
        "push", "health", "alarm", "drain", "undrain", "reload", "nack", "proxy", "fleet", "strategy",
        "reserve", "extend", "release", "expire", "gap",
    ]  # fmt: skip


@dataclass(config=strict)
class Recording:
    """Signals, in the form `gpuxds explain POLICY --signals FILE` reads."""

    now: float
    endpoints: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
