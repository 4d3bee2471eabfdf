"""Large requests: a route to the cluster of the endpoints that have the memory, and what is said without one.

The route is chosen by the estimate's header. It names itself in a header of its own, by which Envoy's answer to a
request that found no endpoint is told from that of other clusters.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as envoy_type

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.requests import LargeRequestsSpec
from gpuxds.policy.slices import large_of
from gpuxds.snapshot.estimate import HEADER
from gpuxds.snapshot.replies import both, error_reply, has_flag, replaced, request_has

CLUSTER_HEADER = "x-gpuxds-cluster"
NO_ENDPOINT = ("UH", "UF")
"""Envoy's response flags for a cluster without an endpoint that may be used, and for one whose endpoints refuse
connections, which is the same a moment earlier."""
BEYOND = 2**63 - 1


def large_route(pool: PoolSpec, cluster: str, action: route_v3.RouteAction) -> route_v3.Route:
    """Requests to the pool's prefix that are estimated above its limit; `action` leads to `cluster`."""
    assert pool.large_requests is not None
    above = envoy_type.Int64Range(start=pool.large_requests.over_tokens + 1, end=BEYOND)
    estimated = route_v3.HeaderMatcher(name=HEADER, range_match=above)
    return route_v3.Route(
        name=cluster,
        match=route_v3.RouteMatch(prefix=pool.match.prefix, headers=[estimated]),
        route=action,
        request_headers_to_add=[replaced(CLUSTER_HEADER, cluster)],
    )


def large_replies(policy: Policy) -> list[hcm.ResponseMapper]:
    """What a large request is told that no endpoint can run."""
    return [
        error_reply(
            both(has_flag(*NO_ENDPOINT), request_has(CLUSTER_HEADER, large_of(pool.name))),
            why(pool.name, pool.large_requests),
            "server_error",
            "no_endpoint_for_large_request",
            pool.large_requests.retry_after,
        )
        for pool in policy.pools
        if pool.large_requests is not None
    ]


def why(pool: str, spec: LargeRequestsSpec) -> str:
    """The sentence, with the request's own estimate."""
    return (
        f"this request is estimated at %REQ({HEADER})% tokens; above {spec.over_tokens} only endpoints of pool "
        f"{pool} with at least {spec.min_memory_gb:g} GB of GPU memory run it, and none is available now"
    )
