"""Limits in the proxies in front of guards, and what a proxy does when a guard says that its endpoint is full.

Guards count; a proxy's own limits only have to stop what no guard could take: many more requests than endpoints run
and keep waiting together. They are wider than that, since a proxy at its limit refuses whoever comes, where a guard
knows priorities. A guard that is full says so in a header, and the proxy tries another endpoint. A request may
wait in line at its last try, or when every endpoint was tried.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.requests import GuardSpec
from gpuxds.snapshot.replies import error_reply, has_flag, replaced

REFUSED = "x-gpuxds-refused"
"""Header of a guard's refusal: `elsewhere` when another endpoint may have room, `full` when waiting was in vain."""
ELSEWHERE = "elsewhere"
FEWEST = 64
"""Smallest limit of a cluster behind guards: a small pool that grows does not change it at once."""
HEADROOM = 4
"""How many times what all endpoints take a proxy lets through; the guards refuse what is too much."""
MESSAGE = "the servers run and keep waiting all they can; try again later"


def patient_attempt(pool: PoolSpec, peers: int) -> int:
    """The attempt, counted from 1, at which a request waits: every endpoint was tried, or it is the last one."""
    return max(1, min(pool.retries.attempts + 1, peers))


def room(endpoint: Endpoint, pool: PoolSpec) -> int:
    """Requests that are at an endpoint at once: those that run, and those that wait at its guard."""
    return endpoint.capacity + (pool.guard.queue.max_waiting if pool.guard and pool.guard.queue else 0)


def retry_after_s(spec: GuardSpec) -> int:
    """What a refused client is told to wait: as long as it would have waited in line, at least a second."""
    return max(1, round(spec.queue.timeout)) if spec.queue else 1


def guarded_limits(most: float) -> cluster_v3.CircuitBreakers:
    """Limits of a cluster whose endpoints have guards and `room` for this many requests together.

    In powers of two, so that a changing fleet rarely changes the cluster. Retries are not limited further: a
    refusal costs next to nothing, and guards keep a storm of them from the engines.
    """
    limit = FEWEST
    while limit < HEADROOM * most:
        limit *= 2
    return cluster_v3.CircuitBreakers(
        thresholds=[
            cluster_v3.CircuitBreakersThresholds(
                max_connections=2 * limit, max_pending_requests=2 * limit, max_requests=limit, max_retries=limit
            )
        ]
    )


def elsewhere(pool: PoolSpec, policy: route_v3.RetryPolicy | None) -> route_v3.RetryPolicy | None:
    """The retry policy of a pool, which also leaves a guard that is full."""
    if pool.guard is None or policy is None:
        return policy
    told = matcher.StringMatcher(exact=ELSEWHERE)
    policy.retry_on += ",retriable-headers"
    policy.retriable_headers = [route_v3.HeaderMatcher(name=REFUSED, string_match=told)]
    return policy


def overflow(policy: Policy) -> list[hcm.ResponseMapper]:
    """A proxy at its own limit answers as a guard does; nothing for a policy without guards."""
    specs = [pool.guard for pool in policy.pools if pool.guard]
    if not specs:
        return []
    return [refused(has_flag("UO"), max(map(retry_after_s, specs)), "full")]


def refused(when: accesslog.AccessLogFilter, wait_s: int, how: str) -> hcm.ResponseMapper:
    """A refusal in place of what Envoy says itself."""
    reply = error_reply(when, MESSAGE, "overloaded_error", "at_capacity", wait_s)
    reply.status_code = 429
    reply.headers_to_add.append(replaced(REFUSED, how))
    return reply
