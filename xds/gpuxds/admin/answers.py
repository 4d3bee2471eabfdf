"""What the API answers, as types: views build them, JSON carries them, and OpenAPI is generated from them.

A number that is not known is null, never 0 and never absent.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gpuxds.discovery.events import ProxyStatus, TypeStatus

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
    endpoints: int
    healthy: int
    """Endpoints that take new requests."""
    frozen: bool
    alarms: list[str]
    decided_at: float
    """Unix seconds."""
    note: str


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
class Endpoint:
    """One endpoint."""

    id: str
    pool: str
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
    acknowledged: bool | None = None
    """In the answer to a drain: every connected proxy has accepted it."""


@dataclass(config=strict)
class Endpoints:
    """Every endpoint, and every pool in a few numbers."""

    pools: list[Pool]
    endpoints: list[Endpoint]


@dataclass(config=strict)
class Undrained:
    """Answer to an undrain."""

    id: str
    was_draining: bool


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


@dataclass(config=strict)
class Explained:
    """Why each weight is what it is."""

    pools: list[Pool]
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
    policy: dict[str, Any]


@dataclass
class Event:
    """Something that happened; further fields depend on the kind."""

    id: int
    at: float
    kind: Literal["push", "health", "alarm", "drain", "undrain", "reload", "nack", "proxy", "fleet"]


@dataclass(config=strict)
class Recording:
    """Signals, in the form `gpuxds explain POLICY --signals FILE` reads."""

    now: float
    endpoints: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)


__all__ = [
    "Endpoint",
    "Endpoints",
    "Explained",
    "Policy",
    "Problem",
    "Proxies",
    "Recording",
    "TypeStatus",
    "Undrained",
]
