"""What a policy does not use, Envoy is not told; the budget is what it says."""

from __future__ import annotations

import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.policy.model import Policy
from gpuxds.policy.requests import RetrySpec
from gpuxds.policy.rules import rules
from gpuxds.snapshot.body import BODY, script
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, Resource
from gpuxds.snapshot.resources import config
from gpuxds.snapshot.retries import retry_budget
from support.front import one_pool


def value(resource: Resource) -> bytes:
    return AnyMessage.FromString(resource.any_bytes).value


def host(policy: Policy) -> route_v3.VirtualHost:
    found = config(policy, None, {})[ROUTES].resources["gpuxds"]
    return route_v3.RouteConfiguration.parse(value(found)).virtual_hosts[0]


def filters(policy: Policy) -> list[str]:
    message = listener_v3.Listener.parse(value(config(policy, None, {})[LISTENER].resources["gpuxds"]))
    packed = message.filter_chains[0].filters[0].typed_config
    assert packed is not None
    return [found.name for found in hcm.HttpConnectionManager.parse(packed.value).http_filters]


def test_a_policy_that_uses_none_of_it_generates_none_of_it() -> None:
    policy = one_pool(2, "    retries: {attempts: 0}\n")
    policy = policy.model_copy(update={"listener": policy.listener.model_copy(update={"response_headers": False})})
    made = host(policy)
    (route,) = made.routes
    assert route.route is not None
    assert (route.route.retry_policy, route.route.hedge_policy) == (None, None)
    assert route.typed_per_filter_config == {}
    assert made.response_headers_to_add == []
    assert (made.include_request_attempt_count, made.request_body_buffer_limit) == (False, None)
    assert filters(policy) == ["envoy.filters.http.router"]
    cluster = cluster_v3.Cluster.parse(value(config(policy, None, {})[CLUSTER].resources["p"]))
    assert cluster.circuit_breakers is not None
    assert cluster.circuit_breakers.thresholds[0].retry_budget is None
    assert rules(policy, policy.pools[0]) == ["a request is tried once", "a request is cut after 300 s of silence"]


def test_by_default_no_body_is_read_and_the_upstream_learns_the_attempt() -> None:
    made = host(one_pool(2))
    assert made.include_request_attempt_count
    assert [route.name for route in made.routes] == ["p"]
    assert filters(one_pool(2)) == ["envoy.filters.http.router"]


@pytest.mark.parametrize(
    "parts",
    ["    hedging: {after: 1s}\n", "    timeouts: {request: 9s}\n", "    timeouts: {header: x-wait}\n"],
)
def test_bodies_are_read_on_the_routes_of_pools_that_need_it(parts: str) -> None:
    policy = one_pool(2, parts)
    assert filters(policy) == [BODY, "envoy.filters.http.router"]
    assert all(BODY in route.typed_per_filter_config for route in host(policy).routes)


def test_hedged_requests_have_a_route_before_the_one_it_is_a_copy_of() -> None:
    policy = one_pool(2, "    hedging: {after: 1500ms, max_body_bytes: 99}\n    match: {prefix: /a/, rewrite: /}\n")
    hedged, plain = host(policy).routes
    assert (hedged.name, plain.name) == ("p-hedged", "p")
    assert hedged.route is not None
    assert plain.route is not None
    assert hedged.match is not None
    assert [found.name for found in hedged.match.headers] == ["x-gpuxds-stream", "content-length"]
    sizes = hedged.match.headers[1].range_match
    assert sizes is not None
    assert (sizes.start, sizes.end) == (0, 100), "exactly the limit is small; the end of a range is not part of it"
    assert hedged.route.prefix_rewrite == plain.route.prefix_rewrite == "/"
    assert hedged.route.retry_policy is not None
    assert hedged.route.retry_policy.per_try_timeout is not None
    assert hedged.route.retry_policy.per_try_timeout.total_seconds() == 1.5
    assert plain.route.retry_policy is not None
    assert plain.route.retry_policy.per_try_timeout is None


@given(st.floats(0, 1000), st.integers(1, 10_000))
def test_retries_never_exceed_their_percentage_of_first_tries(percent: float, first_tries: int) -> None:
    """Envoy admits a retry while retries < share x (first tries + retries); solved for the most retries."""
    budget = retry_budget(RetrySpec(budget_percent=percent))
    assert budget is not None
    assert budget.budget_percent is not None
    share = budget.budget_percent.value / 100
    most = first_tries * share / (1 - share)
    assert most == pytest.approx(first_tries * percent / 100)


def test_the_script_has_the_numbers_of_its_pool_above_it() -> None:
    policy = one_pool(1, "    timeouts: {header: x-wait, request: 30s, buffer: 1.5}\n")
    first, _, _ = script(policy, policy.pools[0]).partition("\n")
    told = '["hedging"] = false, ["header"] = "x-wait", ["request_s"] = 30.0, ["buffer"] = 1.5'
    assert first.startswith(f'local settings = {{["stream"] = {{{told}')


def test_explain_lists_the_rules_of_a_pool_that_uses_them_all() -> None:
    parts = (
        "    retries: {stuck_after: 90s, on_status: [503, 502]}\n    hedging: {after: 3s}\n"
        "    timeouts: {header: x-wait, request: 30s}\n"
    )
    policy = one_pool(2, parts)
    assert rules(policy, policy.pools[0]) == [
        "up to 3 retries, each on an endpoint not tried yet while there is one (unless weights differ by more than "
        "2,000 times), before the first byte only, after: a connection that fails or breaks, 502, 503",
        "retries under way: at most 50 % of the requests under way for the first time, 10 in any case",
        "requests of up to 16384 bytes that are not streamed: one more try beside the first after 3 s of silence, "
        "and no further ones",
        "other requests: one more try beside the others after every 90 s of silence",
        "a request is cut after 300 s of silence",
        "a request that is not streamed is cut, in total, after 1.2 x the seconds in x-wait or 36 s when it says "
        "none",
    ]
