"""An endpoint as its operator describes it, and the fleet as one immutable value.

Nothing here changes by itself: a source that says something new yields a new `Fleet`, and the decision
works on whichever one it was handed. Signals refer to endpoints by id, so a changed address keeps history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Gpu:
    """The hardware of one endpoint; `count` GPUs of one model serve it together (tensor parallel)."""

    model: str
    memory_gb: float
    """Memory of one GPU in GB, as its maker sells it (80 for an H100-80)."""
    count: int = 1


@dataclass(frozen=True, slots=True)
class MetricsTargets:
    """Where the endpoint's own numbers are. A missing engine URL is derived from the address and the preset."""

    engine_url: str
    gpu_url: str | None = None
    gpu_labels: Mapping[str, str] = field(default_factory=dict)
    """Which GPUs of a shared DCGM page are this endpoint's, for example {"gpu": "0"}; empty: all of them."""
    scraped: bool = True
    """Whether the engine's page is fetched; False: heartbeats tell what it would."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One inference server that can take requests."""

    id: str
    pool: str
    host: str
    """IP address or host name, as written."""
    port: int
    gpu: Gpu
    capacity: int
    """Requests it can run at once."""
    metrics: MetricsTargets
    health_url: str | None = None
    """Asked when its metrics fall silent; None: a TCP connect to host:port."""
    ip: str | None = None
    """The address Envoy is given (EDS takes IPs only); None until the host name was resolved."""
    price_per_hour: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = "policy"
    """Where it was declared, for people: `policy`, or `file_sd:/path/file.json`."""
    guard_port: int | None = None
    """Where its guard listens; None: it has none."""

    @property
    def proxied_port(self) -> int:
        """Where proxies send its requests: its guard's port, or its own."""
        return self.port if self.guard_port is None else self.guard_port


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every endpoint of every pool, ordered by (pool, id). Ids are unique across the fleet."""

    endpoints: tuple[Endpoint, ...] = ()
    by_id: Mapping[str, Endpoint] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.endpoints, key=lambda endpoint: (endpoint.pool, endpoint.id)))
        object.__setattr__(self, "endpoints", ordered)
        object.__setattr__(self, "by_id", MappingProxyType({e.id: e for e in ordered}))

    def pool(self, name: str) -> tuple[Endpoint, ...]:
        """The endpoints of one pool, ordered by id."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.pool == name)

    def replace(self, endpoints: Iterable[Endpoint]) -> Fleet:
        """The same fleet with these endpoints instead of those with the same ids."""
        new = {endpoint.id: endpoint for endpoint in endpoints}
        return Fleet(tuple(new.get(endpoint.id, endpoint) for endpoint in self.endpoints))
