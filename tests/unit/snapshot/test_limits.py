"""Large requests and tenants: what is generated for them, and that nothing is for a policy without them."""

from __future__ import annotations

import re

import pytest
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream_log
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from google.protobuf.any_pb2 import Any as AnyMessage

from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.policy.slices import slices_of
from gpuxds.policy.tenants import Bucket, Limits
from gpuxds.snapshot.body import BODY, GUNZIP
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, Resource
from gpuxds.snapshot.resources import config
from gpuxds.snapshot.tenants import parts, token_bucket

TEXT = """
version: 1
pools:
  - {{name: a, match: {{prefix: /a}}, {a} endpoints: [{{id: x, address: '10.0.0.1:80', gpu: {{model: H100-80}}}}]}}
  - {{name: b, match: {{prefix: /b}}, {b} endpoints: [{{id: y, address: '10.0.0.2:80', gpu: {{model: L4}}}}]}}
"""


def policy(a: str = "", b: str = "", extra: str = "") -> Policy:
    return load_text(TEXT.format(a=a, b=b) + extra, "p.yaml").policy


def value(resource: Resource) -> bytes:
    return AnyMessage.FromString(resource.any_bytes).value


def manager(spec: Policy) -> hcm.HttpConnectionManager:
    message = listener_v3.Listener.parse(value(config(spec, None, {})[LISTENER].resources["gpuxds"]))
    packed = message.filter_chains[0].filters[0].typed_config
    assert packed is not None
    return hcm.HttpConnectionManager.parse(packed.value)


def routes(spec: Policy) -> list[route_v3.Route]:
    parts = [part for pool in spec.pools for part in slices_of(pool, endpoints(spec), [])]
    made = config(spec, None, {}, parts)[ROUTES].resources["gpuxds"]
    return route_v3.RouteConfiguration.parse(value(made)).virtual_hosts[0].routes


def test_a_policy_without_large_requests_generates_nothing_for_them() -> None:
    plain = manager(policy())
    assert [found.name for found in plain.http_filters] == ["envoy.filters.http.router"]
    assert plain.local_reply_config is None
    assert plain.early_header_mutation_extensions == []
    for route in routes(policy()):
        assert route.request_body_buffer_limit is None
        assert route.typed_per_filter_config == {}
        assert route.request_headers_to_add == []
    assert set(config(policy(), None, {})[CLUSTER].resources) == {"a", "b"}


def test_tenants_have_filters_for_the_limits_they_have_and_no_more() -> None:
    def filters(default: str) -> list[str]:
        made = manager(policy(extra=f"tenants: {{header: x-tenant, default: {default}}}"))
        return [found.name.removeprefix("gpuxds.") for found in made.http_filters[:-1]]

    assert filters("{requests_per_second: 1}") == ["tenants", "requests"]
    assert filters("{tokens_per_second: 1}") == ["tenants", "gunzip", "body", "tokens"]
    both = ["tenants", "requests", "gunzip", "body", "tokens"]
    assert filters("{requests_per_second: 1, tokens_per_second: 1}") == both


def test_the_access_log_says_whose_a_request_was_and_how_many_tokens_it_was_taken_for() -> None:
    def fields(spec: Policy) -> set[str]:
        (log,) = manager(spec).access_log
        assert log.typed_config is not None
        written = stream_log.StdoutAccessLog.parse(log.typed_config.value).log_format
        assert written is not None
        assert written.json_format is not None
        return set(written.json_format.fields)

    both = policy(extra="tenants: {header: x-tenant, default: {tokens_per_second: 1}}")
    assert fields(both) - fields(policy()) == {"tenant", "estimated_tokens"}


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 2.5, 7.0, 1234.5, 1e6])
def test_a_bucket_fills_at_its_rate(rate: float) -> None:
    made = token_bucket(Bucket(rate, 5))
    assert made.tokens_per_fill is not None
    assert made.fill_interval is not None
    assert made.max_tokens == 5
    assert made.fill_interval.total_seconds() >= 0.05, "Envoy takes no shorter one"
    assert made.tokens_per_fill / made.fill_interval.total_seconds() == pytest.approx(rate, rel=0.001)


@pytest.mark.parametrize(
    ("bucket", "others", "expected"),
    [
        (Bucket(0.5, 3), {}, 1000),
        (Bucket(5, 50), {"slow": Bucket(0.9, 9)}, 1000),
        (Bucket(1, 10), {}, 1),
        (Bucket(0.5, 3), {"wide": Bucket(9, 10**7)}, 1),
        (None, {"slow": Bucket(0.1, 1)}, 1000),
    ],
)
def test_buckets_that_fill_slowly_count_in_parts_of_a_request(
    bucket: Bucket | None, others: dict[str, Bucket], expected: int
) -> None:
    assert parts("requests", Limits(bucket, others)) == expected
    assert parts("tokens", Limits(bucket, others)) == 1


def test_every_pool_is_read_when_tokens_of_tenants_are_limited() -> None:
    found = routes(policy(extra="tenants: {header: x-tenant, default: {tokens_per_second: 1}}"))
    assert {route.request_body_buffer_limit for route in found if route.route} == {10_485_760}


def test_exactly_the_limit_is_small_and_one_more_is_large() -> None:
    found = routes(policy(a="large_requests: {over_tokens: 1000},"))
    assert [route.name for route in found] == ["a-unreadable", "a/large", "a", "b"]
    large = found[1]
    assert large.match is not None
    (header,) = large.match.headers
    assert header.range_match is not None
    assert (header.name, header.range_match.start) == ("x-gpuxds-estimated-tokens", 1001)
    assert large.route is not None
    assert large.route.cluster == "a/large"


@pytest.mark.parametrize(
    ("coding", "known"),
    [("gzip", True), ("GZip", True), (" identity ", True), ("", True)]
    + [(coding, False) for coding in ("br", "zstd", "deflate", "gzip, br", "x-gzip")],
)
def test_bodies_in_a_coding_that_cannot_be_unpacked_are_refused_first(coding: str, known: bool) -> None:
    refused = routes(policy(a="large_requests: {},"))[0]
    assert refused.match is not None
    (header,) = refused.match.headers
    assert (header.name, header.invert_match) == ("content-encoding", True)
    assert header.string_match is not None
    assert header.string_match.safe_regex is not None
    assert bool(re.fullmatch(header.string_match.safe_regex.regex, coding)) == known
    assert refused.direct_response is not None
    assert refused.direct_response.status == 415


def test_only_bodies_of_pools_that_ask_are_read() -> None:
    _, large, small, other = routes(policy(a="large_requests: {},"))
    for route in (large, small):
        assert route.request_body_buffer_limit == 10_485_760
        assert route.typed_per_filter_config == {}
    assert other.request_body_buffer_limit is None
    assert set(other.typed_per_filter_config) == {GUNZIP, BODY}


def test_a_client_cannot_set_the_header_unless_it_is_the_one_that_is_trusted() -> None:
    ours = "large_requests: {},"
    assert len(manager(policy(a=ours)).early_header_mutation_extensions) == 1
    other = "estimate: {trust_header: x-cost}"
    assert len(manager(policy(a=ours, extra=other)).early_header_mutation_extensions) == 1
    trusted = "estimate: {trust_header: x-gpuxds-estimated-tokens}"
    assert manager(policy(a=ours, extra=trusted)).early_header_mutation_extensions == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: large_requests: {over_tokens: -1},", "over_tokens: -1 must be at least 0"),
        ("a: large_requests: {min_memory_gb: 0},", "min_memory_gb: 0 must be greater than 0"),
        ("a: large_requests: {over_token: 1},", "unknown key 'over_token'; did you mean 'over_tokens'?"),
        ("a: large_requests: {retry_after: 10},", "10 is not a duration"),
        ("estimate: {max_body_bytes: 10}", "max_body_bytes: 10 must be at least 65536"),
        ("estimate: {tokens_per_byte: 0}", "tokens_per_byte: 0 must be greater than 0"),
        ("estimate: {trust_header: X-Cost}", "trust_header: 'X-Cost' must match"),
    ],
)
def test_a_wrong_limit_is_named_with_its_place(text: str, expected: str) -> None:
    from gpuxds.errors import PolicyError

    pool, extra = (text[3:], "") if text.startswith("a: ") else ("", text)
    with pytest.raises(PolicyError) as refused:
        policy(a=pool, extra=extra)
    (problem,) = refused.value.problems
    assert problem.line > 1
    assert expected in str(problem)


def test_a_pool_without_the_memory_for_its_large_requests_is_asked_about() -> None:
    loaded = load_text(TEXT.format(a="", b="large_requests: {},"), "p.yaml")
    (warning,) = loaded.warnings
    assert "no endpoint of pool 'b' has 80 GB" in warning.message
