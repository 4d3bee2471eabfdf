"""The policy file as a pydantic model. Every field has its meaning, unit and reason beside it.

The model holds what was written; `policy.build` turns its endpoints into the fleet's. Validation that needs
one field lives on that field, validation across fields in `policy.checks`, which can also warn.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gpuxds.policy.base import Model
from gpuxds.policy.requests import (
    EstimateSpec,
    GuardSpec,
    HedgingSpec,
    LargeRequestsSpec,
    PrioritiesSpec,
    RetrySpec,
    TenantsSpec,
    TimeoutSpec,
)
from gpuxds.policy.strategies import GpuAware, Strategy
from gpuxds.policy.units import Duration

LARGEST_CAPACITY = 1_000_000
ID_PATTERN = r"^[A-Za-z0-9_.:/@\[\]-]{1,128}$"


def name_only(value: object) -> object:
    """`strategy: gpu_aware` is short for a mapping with that name."""
    return {"name": value} if isinstance(value, str) else value


class GpuSpec(Model):
    """The hardware of an endpoint."""

    model: str
    """GPU model, for example H100-80, A100-40, L40S, L4. Known models bring their own priors."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory of one GPU in GB. Default: that of the model; required for a model that is not known."""
    count: int = Field(1, ge=1, le=64)
    """GPUs that serve this endpoint together (tensor parallel)."""


class MetricsSpec(Model):
    """Where an endpoint's numbers are."""

    engine: str | None = None
    """URL of the engine's metric page. Default: the endpoint's address with the preset's path."""
    gpu: str | None = None
    """URL of the DCGM exporter's page. Default: none, and hardware signals are absent."""
    gpu_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that pick this endpoint's GPUs on a page that shows several, for example {gpu: "0"}."""
    health: str | None = None
    """URL asked when the metrics fall silent. Default: the address with the preset's health path."""
    source: Literal["scrape", "heartbeat"] = "scrape"
    """`scrape`: the engine's page is fetched. `heartbeat`: `gpuxds agent` on the GPU host sends its numbers;
    nothing is fetched, and an endpoint that is silent for `signals.heartbeat.lost_after` is out of service."""


class EndpointSpec(Model):
    """One inference server."""

    id: str = Field(pattern=ID_PATTERN)
    """Unique in the whole policy; used by `drain`, `explain` and in logs."""
    address: str
    """`host:port` that Envoy sends requests to; `[::1]:8000` for IPv6; host names are resolved."""
    gpu: GpuSpec
    """The hardware; its speed and memory decide the weight it starts from."""
    capacity: int | None = Field(None, gt=0, le=LARGEST_CAPACITY)
    """Requests it can run at once (vLLM: max_num_seqs, or what the KV cache allows). Default: derived from
    the GPU model."""
    price_per_hour: float | None = Field(None, ge=0)
    """Price per hour, any one currency; used by weighted_round_robin."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Anything that helps to tell endpoints apart: region, zone, provider, spot. `region` and `zone` become
    Envoy's locality for display; weights stay global."""
    metrics: MetricsSpec = MetricsSpec()
    """Where its numbers are."""


class FileSdSpec(Model):
    """Prometheus file_sd: JSON or YAML files of target groups, watched."""

    files: list[str] = Field(min_length=1)
    """Paths or globs, relative to the policy file."""
    gpu: GpuSpec | None = None
    """Hardware of targets that do not say theirs with the labels `gpu_model`, `gpu_memory_gb`, `gpu_count`."""
    capacity: int | None = Field(None, gt=0, le=LARGEST_CAPACITY)
    """Capacity of targets that do not say theirs with the label `capacity`."""


class MatchSpec(Model):
    """Which requests a pool serves."""

    prefix: str = Field("/", pattern=r"^/")
    """Path prefix; the longest prefix among the pools wins."""
    rewrite: str | None = Field(None, pattern=r"^/")
    """What the endpoints see in place of the prefix, for example `/` for the prefix `/small/`. Default: requests
    arrive as they were sent."""


class DrainSpec(Model):
    """How endpoints are drained."""

    deadline: Duration = 600.0
    """An endpoint that is still busy after this long is removed anyway. 10 minutes: longer than nearly every
    generation."""


class ReservationsSpec(Model):
    """Endpoints set aside for one holder over the API (`gpuxds reserve`)."""

    floor: int = Field(1, ge=0)
    """Serving endpoints that reservations leave to everybody. 1: a pool is never reserved away."""
    max_ttl: Duration = 86_400.0
    """Longest time a reservation is made or extended for. A day: what is forgotten comes back."""


class OutlierSpec(Model):
    """Envoy's own passive health checks, which also work when the control plane is dead."""

    consecutive_5xx: int = Field(5, ge=0, le=1000)
    """Failures in a row after which an Envoy ejects an endpoint; 0 turns it off."""
    base_ejection_time: Duration = 10.0
    """First ejection; grows with each further one."""
    max_ejection_percent: int = Field(30, ge=0, le=100)
    """Most of a pool that one Envoy may eject, in percent."""


class PoolSpec(Model):
    """Endpoints that serve the same requests."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")
    """Unique; the name of Envoy's cluster."""
    match: MatchSpec = MatchSpec()
    """Which requests it serves."""
    strategy: Annotated[Strategy, BeforeValidator(name_only)] = Field(default_factory=GpuAware)
    """How load is spread; a name, or a mapping with `name` and parameters."""
    engine: Literal["vllm"] = "vllm"
    """Preset that reads the engine's metric page."""
    protocol: Literal["http1", "http2"] = "http1"
    """Protocol Envoy speaks to the endpoints."""
    endpoints: list[EndpointSpec] = Field(default_factory=list)
    """Endpoints stated here."""
    file_sd: FileSdSpec | None = None
    """Endpoints from files."""
    drain: DrainSpec = DrainSpec()
    """How endpoints are drained."""
    reservations: ReservationsSpec = ReservationsSpec()
    """How endpoints may be set aside for one holder."""
    retries: RetrySpec = RetrySpec()
    """How Envoy retries."""
    outlier_detection: OutlierSpec = OutlierSpec()
    """Envoy's passive health checks."""
    timeouts: TimeoutSpec = TimeoutSpec()
    """Timeouts of the data path."""
    large_requests: LargeRequestsSpec | None = None
    """Requests that only endpoints with much memory may run. Default: every endpoint runs every request."""
    hedging: HedgingSpec | None = None
    """A second try for small requests that are not streamed, within the budget of `retries`. Default: none. Needs
    the body to be read."""
    guard: GuardSpec | None = None
    """Exact limits by an Envoy beside each endpoint. Default: none; the proxies' own limits stop a runaway only."""


class EngineSignals(Model):
    """Scraping of engine metric pages."""

    interval: Duration = 1.0
    """Between scrapes of one endpoint. Faster buys under 2 % in simulation; 15 s costs a quarter of goodput."""
    timeout: Duration = 1.0
    """One scrape; a page takes 1 to 30 ms."""
    stale_after: Duration = 3.0
    """Age at which load is no longer trusted and the weight begins to relax."""
    absent_after: Duration = 60.0
    """Age at which a value is forgotten."""
    max_bytes: int = Field(4_194_304, ge=1024)
    """Longest page that is read."""
    ca_file: str | None = None
    """Certificates to trust for https pages; default: the system's."""
    bearer_token_file: str | None = None
    """File whose content is sent as `Authorization: Bearer`; read anew for each scrape."""


class GpuSignals(EngineSignals):
    """Scraping of DCGM exporter pages."""

    interval: Duration = 5.0
    """Between scrapes. The exporter renews its values every 30 s by default, hardware errors sooner."""
    timeout: Duration = 2.0
    """One scrape; an exporter with many GPUs takes longer than an engine."""
    stale_after: Duration = 45.0
    """One and a half of the exporter's default interval of 30 s."""
    absent_after: Duration = 300.0
    """Age at which a value is forgotten."""


class HeartbeatSignals(Model):
    """What endpoints send by themselves."""

    stale_after: Duration = 20.0
    """Age at which their load is no longer trusted and the weight begins to relax. Four beats of `gpuxds agent`."""
    lost_after: Duration = 60.0
    """Silence after which an endpoint that lives by heartbeats is out of service, and its values are forgotten; it
    is ramped in when it is heard again."""


class ProxySignals(Model):
    """What proxies report beside their load reports."""

    access_logs: bool = False
    """Let every proxy send its access log here: latency and time to first byte per endpoint as clients see them,
    and retries. Costs each proxy about 10 % of CPU per small request, and this server a few microseconds per
    request."""


class SignalsSpec(Model):
    """How signals are gathered and how long they are trusted."""

    engine: EngineSignals = EngineSignals()
    """Engine metric pages."""
    gpu: GpuSignals = GpuSignals()
    """DCGM exporter pages."""
    heartbeat: HeartbeatSignals = HeartbeatSignals()
    """What `gpuxds agent` sends."""
    proxy: ProxySignals = ProxySignals()
    """What proxies report."""
    relax_over: Duration = 30.0
    """Once an endpoint's load is stale, its weight goes to the baseline over this time."""
    ewma: Duration = 5.0
    """Time constant of rates and latencies: rises at once with a peak, decays over this time."""


class HealthSpec(Model):
    """When an endpoint is taken out and how it comes back."""

    probe_timeout: Duration = 1.0
    """One question to the serving port, asked when metrics are silent."""
    timeouts_to_fail: int = Field(2, ge=1, le=20)
    """Probes that must time out in a row. One refusal is enough: nothing listens there."""
    error_streak_to_fail: int = Field(3, ge=0, le=1000)
    """Requests in a row that failed, as the proxies report; 0 turns it off."""
    retry_after: Duration = 10.0
    """After a failure by errors, how long until the endpoint is tried again."""
    ramp: Duration = 15.0
    """An endpoint that comes back has its weight raised linearly over this time."""
    max_ejected_percent: int = Field(30, ge=0, le=100)
    """Most of a pool that judgement (hardware signals, errors, timeouts) may take out; refused connections
    are not judgement."""
    freeze_percent: int = Field(50, ge=1, le=100)
    """When at least this share of a pool (and two endpoints) falls silent within `freeze_window` while its
    ports answer or time out, the fault is probably ours: everything stays as it is and an alarm is raised."""
    freeze_window: Duration = 10.0
    """Silences this close together count as one loss."""
    quarantine_xids: list[int] = Field(default_factory=lambda: [48, 64, 79, 95, 119, 120, 140, 143])
    """NVIDIA XIDs that take a GPU out: double-bit ECC, row remap failure, off the bus, uncontained ECC, GSP."""
    drain_xids: list[int] = Field(default_factory=lambda: [63, 74, 92, 94])
    """NVIDIA XIDs after which running requests may finish but no new ones come: NVLink, contained ECC."""


class WeightsSpec(Model):
    """When weights are pushed."""

    dead_band: float = Field(0.2, ge=0, le=2)
    """Smallest change of ln(weight) of any endpoint that is worth a push; 0.2 is 22 %."""
    min_interval: Duration = 2.0
    """Shortest time between two pushes of weights to one cluster; health and membership never wait."""
    scale: int = Field(1_000_000, ge=1000, le=100_000_000)
    """Weight of the heaviest endpoint. At least 1,000 levels; lowered when the sum nears 2^32."""


class PriorSpec(Model):
    """What a GPU model can do before anything was measured."""

    memory_gb: float = Field(gt=0)
    """Memory of one GPU in GB."""
    step_s: float = Field(gt=0)
    """Seconds per output token at batch 1."""
    step_per_sequence_s: float = Field(gt=0)
    """Further seconds per output token for each further sequence in the batch."""
    prefill_tokens_per_s: float = Field(gt=0)
    """Prompt tokens per second."""
    kv_tokens: float = Field(gt=0)
    """Tokens the KV cache holds."""
    max_batch: int = Field(256, gt=0)
    """Most sequences at once (vLLM's max_num_seqs)."""


class ListenerSpec(Model):
    """Where Envoy listens."""

    address: str = "0.0.0.0"
    """Address Envoy binds; `127.0.0.1` for local use."""
    port: int = Field(10000, ge=1, le=65535)
    """Port Envoy binds."""
    access_log: bool = True
    """One JSON line per request on Envoy's standard output."""
    response_headers: bool = False
    """Answers say which endpoint served them (`x-gpuxds-endpoint`, its address) and at which attempt
    (`x-gpuxds-attempts`, from 1). Off: clients outside should not learn addresses."""


class NodeGroupSpec(Model):
    """Proxies that see some pools only."""

    name: str
    """Name of the group, shown by `gpuxds proxies`."""
    cluster: str | None = None
    """Value of the proxy's node.cluster that selects this group."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Entries the proxy's node.metadata must have."""
    pools: list[str] = Field(min_length=1)
    """Pools its proxies see. Proxies that match no group see every pool."""


class Policy(Model):
    """A whole policy file."""

    version: Literal[1]
    """Format of this file."""
    listener: ListenerSpec = ListenerSpec()
    """Where Envoy listens."""
    estimate: EstimateSpec = EstimateSpec()
    """How Envoy estimates the tokens of a request."""
    tenants: TenantsSpec | None = None
    """Who sends requests, and how much each may ask for. Default: nobody is limited."""
    pools: list[PoolSpec] = Field(min_length=1)
    """The pools, each an Envoy cluster."""
    signals: SignalsSpec = SignalsSpec()
    """How signals are gathered."""
    health: HealthSpec = HealthSpec()
    """When endpoints are taken out."""
    weights: WeightsSpec = WeightsSpec()
    """When weights are pushed."""
    gpu_models: dict[str, PriorSpec] = Field(default_factory=dict)
    """Priors of further GPU models, or other ones for known models."""
    node_groups: list[NodeGroupSpec] = Field(default_factory=list)
    """Proxies that see some pools only."""
    priorities: PrioritiesSpec | None = None
    """Who is refused first when a guarded endpoint is full. Default: all requests are alike."""
