"""Another try on another endpoint, before the first byte of an answer, and within a budget.

Envoy tries again what failed before its answer began: a connection that fails or breaks, and answers the policy
names. Each try leaves out the endpoints that were tried while there are others, and tells the upstream which
attempt it is (`x-envoy-attempt-count`), so that whoever queues may let it pass first. A budget bounds the retries
under way, so that servers which all fail at once do not get a multiple of their load on top.

A server that accepts requests and never answers cannot be told from a slow one. So nothing is cut for being slow:
a second try is started beside the first, and the answer that begins first is taken (Envoy's hedging on a try's
timeout). A try's timeout does not concern an answer that has begun.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/router_filter
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypedDict

from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import PoolSpec
from gpuxds.policy.requests import RetrySpec
from gpuxds.snapshot.streaming import reads_bodies

RETRY_ON = "connect-failure,refused-stream,reset"
"""`reset` covers a connection that breaks before the answer's headers; nothing is retried after them."""
PREVIOUS_HOSTS_TRIES = 2_000
"""How often Envoy picks again when it picked an endpoint that was tried. Picks by weight go round: one with 1,600
times the weight of the others is picked 1,600 times before it is another's turn. A pick takes less than a
microsecond."""
BODY_BYTES = 16 * 1024 * 1024
"""Largest request Envoy keeps in order to send it again, or to read it. Its default is 1 MiB, above which it
silently never retries, and refuses a body that is to be read. A prompt of a million tokens has 4 MB."""


class HostOptions(TypedDict, total=False):
    """What retries need of the virtual host."""

    include_request_attempt_count: bool
    request_body_buffer_limit: int


def retry_policy(spec: RetrySpec, hedged_after_s: float = 0.0) -> route_v3.RetryPolicy | None:
    """Another endpoint for a request whose answer has not begun; None when the policy wants no retries.

    `hedged_after_s` is the silence before the first byte after which a try gets company on a route with hedging,
    once: each further silence would start one more; 0: `stuck_after` decides.
    """
    if spec.attempts == 0:
        return None
    predicate = route_v3.RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts",
        typed_config=PackedMessage.pack(previous_hosts.PreviousHostsPredicate()),
    )
    base_s = max(spec.back_off, 0.001)
    silence_s = hedged_after_s or spec.stuck_after
    return route_v3.RetryPolicy(
        retry_on=RETRY_ON + (",retriable-status-codes" if spec.on_status else ""),
        retriable_status_codes=sorted(set(spec.on_status)),
        num_retries=1 if hedged_after_s else spec.attempts,
        per_try_timeout=timedelta(seconds=silence_s) if silence_s else None,
        retry_back_off=route_v3.RetryPolicyRetryBackOff(
            base_interval=timedelta(seconds=base_s), max_interval=timedelta(seconds=10 * base_s)
        ),
        retry_host_predicate=[predicate],
        host_selection_retry_max_attempts=PREVIOUS_HOSTS_TRIES,
    )


def stuck_policy(spec: RetrySpec) -> route_v3.HedgePolicy | None:
    """A try that is silent for `stuck_after` gets company instead of being cut; None when it is not used."""
    return route_v3.HedgePolicy(hedge_on_per_try_timeout=True) if spec.attempts and spec.stuck_after else None


def retry_budget(spec: RetrySpec) -> cluster_v3.CircuitBreakersThresholdsRetryBudget | None:
    """How many retries may be under way. Envoy counts them in percent of all requests, retries included."""
    if spec.attempts == 0:
        return None
    share = spec.budget_percent / (100.0 + spec.budget_percent)
    return cluster_v3.CircuitBreakersThresholdsRetryBudget(
        budget_percent=envoy_type.Percent(value=100.0 * share), min_retry_concurrency=spec.budget_minimum
    )


def of_host(pools: Sequence[PoolSpec]) -> HostOptions:
    """The virtual host's part; empty when no pool retries or reads bodies."""
    options: HostOptions = {}
    if any(pool.retries.attempts or pool.guard for pool in pools):
        options["include_request_attempt_count"] = True
    if any(pool.retries.attempts or reads_bodies(pool) for pool in pools):
        options["request_body_buffer_limit"] = BODY_BYTES
    return options
