"""What a policy says of single requests: which may go where, how many, how often each is tried, and how long.

Envoy does all of it by itself; `policy.rules` says in sentences what is in force.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gpuxds.policy.base import Model
from gpuxds.policy.units import Duration, Sha256

HEADER_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
"""A header's name, as HTTP allows it."""
LOWER_HEADER_PATTERN = r"^[a-z0-9!#$%&'*+.^_`|~-]+$"
"""The same in lower case, as Envoy matches it."""
Priority = Literal["LOW", "NORMAL", "HIGH", "URGENT"]
"""In ascending order."""


class RetrySpec(Model):
    """How Envoy retries on another endpoint; only before the first response byte."""

    attempts: int = Field(3, ge=0, le=10)
    """Retries after the first try, each on an endpoint not tried yet while there is one, unless weights differ by
    more than 2,000 times; 0 turns them off. 3 survives three endpoints that die at once."""
    back_off: Duration = 0.025
    """Base of Envoy's exponential back-off between tries."""
    on_status: list[Annotated[int, Field(ge=400, le=599)]] = Field(default_factory=lambda: [502, 503, 504])
    """Answers that are tried again, beside connections that fail or break. Not 500: a request that breaks the
    engine would break the next one as well. Not 429 with `guard`: that is what waiting in vain ends with."""
    budget_percent: float = Field(50.0, ge=0, le=1000)
    """Most retries under way, in percent of the requests under way for the first time: the load a brown-out can
    add. 50: the requests of one endpoint in four find a place when it dies."""
    budget_minimum: int = Field(10, ge=0, le=100_000)
    """Retries under way that are allowed however few requests there are, in each Envoy."""
    stuck_after: Duration = 0.0
    """Silence before the first byte after which a request is sent to another endpoint as well; the first byte
    decides which answer is taken, nothing is cut. 0: never, since Envoy cannot tell stuck from slow. Each counts
    as a failure for `outlier_detection`. Set it well above the longest answer that is not streamed."""


class TimeoutSpec(Model):
    """Timeouts of the data path; none of them cuts a long generation that makes progress."""

    connect: Duration = 1.0
    """TCP connect to an endpoint. 1 s: a GPU host that takes longer is not there."""
    idle: Duration = 300.0
    """Longest silence of a stream, before or between chunks. 5 minutes: a long prompt on a full queue."""
    request: Duration = 0.0
    """Total time of a request that is not streamed, when its client does not state one; streams are never cut by
    it. 0: no limit, since a limit cuts generations that make progress. Needs the body to be read."""
    header: str | None = Field(None, pattern=HEADER_PATTERN)
    """Request header in which a client states, in seconds, how long it waits, for example x-request-timeout. It
    holds for requests that are not streamed. Default: none is read. Needs the body to be read."""
    buffer: float = Field(1.2, ge=1, le=10)
    """Envoy gives up after the stated time multiplied by this. 1.2: the client is the first to give up, and its
    request is cancelled then anyway."""


class HedgingSpec(Model):
    """A second try for small requests whose answer does not begin; the first answer is taken. Such a request is
    sent twice at most, also when it fails, since Envoy starts one more try after each silence. Not with `guard`."""

    after: Duration
    """Silence after which the second try is started, on another endpoint. The 95th percentile of whole answers is
    a good value: one request in twenty is sent twice."""
    max_body_bytes: int = Field(16_384, ge=1, le=10_485_760)
    """Largest body of a request that is hedged. 16 KiB: some 4,000 tokens, so that long prompts are not computed
    twice."""


class LargeRequestsSpec(Model):
    """Requests that only endpoints with much memory may run."""

    over_tokens: int = Field(4096, ge=0, le=1_000_000_000)
    """Requests estimated above this many tokens are large: exactly this many is not, one more is. 4096: where the
    KV cache of one request becomes a tenth of what a 24 GB card holds."""
    min_memory_gb: float = Field(80.0, gt=0)
    """Least GPU memory in GB, of all GPUs of an endpoint together, that may run them. 80: one H100 or A100-80."""
    retry_after: Duration = 10.0
    """What a client is told to wait when no such endpoint is available. 10 s: the time within which an endpoint
    that failed is tried again."""


class QueueSpec(Model):
    """Requests that wait for a guarded endpoint when every one is full."""

    timeout: Duration = 5.0
    """Longest wait; then 429 with `retry-after`. Below `timeouts.idle`, `retries.stuck_after` and
    `timeouts.request` with its buffer, as far as they are in force. 5 s: what a person at a chat bears before the
    first word."""
    max_waiting: int = Field(64, ge=1, le=10_000)
    """Most requests that wait for one endpoint; further ones are refused at once."""


class GuardSpec(Model):
    """An Envoy beside each endpoint that lets at most `capacity` requests run there, whoever sends them."""

    port_offset: int = Field(1000, ge=1, le=64_511)
    """A guard listens on its endpoint's port plus this, and the proxies send requests there. An offset and not a
    port, since one host often runs several engines."""
    address: str = "0.0.0.0"
    """Address a guard binds."""
    queue: QueueSpec | None = None
    """How requests wait when every endpoint is full. Default: they do not; the answer is 429 at once."""


class EstimateSpec(Model):
    """How Envoy estimates the tokens of a request; used by what counts tokens, and by nothing else."""

    tokens_per_byte: float = Field(0.25, gt=0, le=4)
    """Tokens per byte of the body. 0.25: four bytes to a token, as English text has."""
    default_max_tokens: int = Field(256, ge=0, le=10_000_000)
    """Tokens of the answer when the body does not say `max_tokens`; absent is not 0. 256: above the mean answer
    of 211 tokens in traces of chats."""
    max_body_bytes: int = Field(10_485_760, ge=65_536, le=104_857_600)
    """Largest body; larger ones are answered with 413, since Envoy holds a body in memory to read it. 10 MiB: a
    prompt of 2.6 million tokens."""
    trust_header: str | None = Field(None, pattern=LOWER_HEADER_PATTERN)
    """Request header whose number is the estimate, in lower case; give it only when clients cannot set it
    themselves. Requests without a usable number are estimated. Default: no header is trusted."""


class TenantLimits(Model):
    """How much a tenant may ask for."""

    requests_per_second: float | None = Field(None, gt=0, le=1_000_000)
    """Requests per second that it may go on sending. Default: no limit; of an override: that of `default`."""
    requests_burst: int | None = Field(None, ge=1, le=1_000_000_000)
    """Requests it may send at once after a pause. Default: what 10 s bring, at least 1: a page that loads, a batch
    that begins."""
    tokens_per_second: float | None = Field(None, gt=0, le=1_000_000_000)
    """Estimated tokens per second, prompt and answer. Default: no limit; of an override: that of `default`."""
    tokens_burst: int | None = Field(None, ge=1, le=1_000_000_000)
    """Estimated tokens at once after a pause; a request estimated above it is never let through. Default: what 60 s
    bring, which is how providers count tokens per minute."""


class TenantOverride(TenantLimits):
    """Limits of one tenant in place of the default ones; null is no limit."""

    key_sha256: list[Sha256] = Field(default_factory=list)
    """SHA-256 of its API keys, in hexadecimal: `printf %s "$KEY" | sha256sum`. Needed when tenants are told by
    their keys."""


class TenantsSpec(Model):
    """Who sends requests, and how much each may ask for. Each Envoy counts for itself."""

    header: str | None = Field(None, pattern=LOWER_HEADER_PATTERN)
    """Request header that names the tenant, in lower case; a gateway before Envoy must set it, since clients can
    write what they like. Give this or `api_key_header`."""
    api_key_header: str | None = Field(None, pattern=LOWER_HEADER_PATTERN)
    """Request header with the tenant's API key, for example authorization; `Bearer` before the key is left out."""
    proxies: int = Field(1, ge=1, le=10_000)
    """Envoys that the traffic is spread over: each allows this fraction of every limit. 1: limits are per Envoy."""
    default: TenantLimits = TenantLimits()
    """Limits of every tenant without an override, each for itself; requests that name nobody are one tenant."""
    overrides: dict[str, TenantOverride] = Field(default_factory=dict)
    """Limits of tenants by name; what one does not state it takes from `default`."""
    max_unknown: int = Field(10_000, ge=1, le=1_000_000)
    """Tenants without an override that an Envoy keeps count of; beyond that the one unheard for longest starts
    afresh. 10,000: about 5 MB for each kind of limit."""


class PriorityRuleSpec(Model):
    """Requests that have a priority of their own: by `header` and `values`, or by `tenants`."""

    header: str | None = Field(None, pattern=LOWER_HEADER_PATTERN)
    """Request header, in lower case."""
    values: list[str] = Field(default_factory=list)
    """Values of the header that this rule is about; compared exactly."""
    tenants: list[str] = Field(default_factory=list)
    """Tenants that this rule is about, as `tenants` of the policy names them; in place of `header` and `values`."""
    priority: Priority
    """Priority of these requests: LOW, NORMAL, HIGH or URGENT."""


class PrioritiesSpec(Model):
    """Who is refused first when a guarded endpoint is full."""

    rules: list[PriorityRuleSpec] = Field(min_length=1)
    """The first rule that fits a request decides."""
    default: Priority = "NORMAL"
    """Priority of requests that no rule is about."""
    trusted_headers: list[str] = Field(default_factory=list)
    """Headers of rules that clients cannot set themselves, since something before Envoy sets or removes them.
    Rules may use these only: whoever could choose the header could choose the priority."""
    reserved_percent: float = Field(10.0, ge=0, le=50)
    """Part of each endpoint's capacity, rounded up to whole requests, that NORMAL leaves to HIGH and URGENT; LOW
    leaves twice as much. 10: room for a burst while the next request ends."""
