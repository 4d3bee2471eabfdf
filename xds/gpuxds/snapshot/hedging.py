"""A route of their own for small requests that are not streamed: whoever answers first is taken.

Envoy hedges by route: a try that is silent for the stated time is not cut but gets company on another endpoint.
Which requests are small and not streamed is known from their headers once `snapshot.streaming` has read the body.
The route is a copy of the one it stands before, so that both lead to the same place in the same way.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/route/v3/route_components.proto
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from gpuxds.policy.model import PoolSpec
from gpuxds.policy.requests import HedgingSpec
from gpuxds.snapshot.retries import retry_policy
from gpuxds.snapshot.streaming import HEADER


def with_hedging(route: route_v3.Route, pool: PoolSpec) -> list[route_v3.Route]:
    """A pool's route, and before it the one for requests that are hedged, if any are."""
    if pool.hedging is None:
        return [route]
    copy = route_v3.Route.parse(bytes(route))
    assert copy.match is not None
    assert copy.route is not None
    copy.name = f"{route.name}-hedged"
    copy.match.headers += small_and_whole(pool.hedging)
    copy.route.retry_policy = retry_policy(pool.retries, pool.hedging.after)
    copy.route.hedge_policy = route_v3.HedgePolicy(hedge_on_per_try_timeout=True)
    return [copy, route]


def small_and_whole(spec: HedgingSpec) -> list[route_v3.HeaderMatcher]:
    """Headers of the requests that are hedged."""
    sizes = envoy_type.Int64Range(start=0, end=spec.max_body_bytes + 1)
    return [
        route_v3.HeaderMatcher(name=HEADER, string_match=matcher.StringMatcher(exact="false")),
        route_v3.HeaderMatcher(name="content-length", range_match=sizes),
    ]
