"""Clusters, listeners and routes, as Envoy's own schema reads them; the real Envoy has the last word elsewhere."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from google.protobuf.any_pb2 import Any as AnyMessage

from gpuxds.engine.publisher import RETIRE_AFTER_S, Publisher
from gpuxds.errors import SnapshotError
from gpuxds.fleet.endpoint import Fleet
from gpuxds.fleet.reservation import HEADER, Reservation
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.policy.slices import slices_of
from gpuxds.policy.strategies import NAMES
from gpuxds.snapshot.assemble import assemble, with_retired
from gpuxds.snapshot.bootstrap import BootstrapOptions, document, render, sds_files
from gpuxds.snapshot.groups import group_of, pools_of
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource
from gpuxds.snapshot.resources import config
from support.ads import assignment, policy_of, snapshot_of


def value(resource: Resource) -> bytes:
    return AnyMessage.FromString(resource.any_bytes).value


def cluster_of(policy: Policy, name: str = "a", capacity: float = 0.0) -> cluster_v3.Cluster:
    return cluster_v3.Cluster.parse(value(config(policy, None, {name: capacity})[CLUSTER].resources[name]))


def one_pool(extra: str = "") -> Policy:
    text = (
        "version: 1\npools:\n  - name: a\n    endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]\n"
        + extra
    )
    return load_text(text, "t.yaml").policy


def test_panic_routing_is_off_and_endpoints_come_over_ads() -> None:
    message = cluster_of(one_pool())
    assert message.common_lb_config is not None
    assert message.common_lb_config.healthy_panic_threshold is not None
    assert message.common_lb_config.healthy_panic_threshold.value == 0
    assert message.eds_cluster_config is not None
    assert message.eds_cluster_config.eds_config is not None
    assert message.eds_cluster_config.eds_config.ads is not None


POLICIES = {
    "gpu_aware": "least_request", "full_scan": "least_request", "least_load": "least_request",
    "round_robin": "round_robin", "equal_weighted": "round_robin", "weighted_round_robin": "round_robin",
    "least_connections": "least_request", "least_response_time": "least_request", "peak_ewma": "least_request",
    "agent_score": "least_request", "consistent_hash": "ring_hash",
}  # fmt: skip


@pytest.mark.parametrize("strategy", NAMES)
def test_each_strategy_has_its_envoy_policy_and_round_robin_for_clients_that_do_not_know_it(strategy: str) -> None:
    message = cluster_of(one_pool(f"    strategy: {strategy}\n"))
    assert message.load_balancing_policy is not None
    names = [
        policy.typed_extension_config.name.rpartition(".")[2]
        for policy in message.load_balancing_policy.policies
        if policy.typed_extension_config is not None
    ]
    assert names[0] == POLICIES[strategy]
    assert names[-1] == "round_robin"


@pytest.mark.parametrize(("capacity", "limit"), [(0, 1024), (256, 1024), (257, 2048), (10_000, 65536)])
def test_circuit_breakers_follow_capacity_in_powers_of_two(capacity: float, limit: int) -> None:
    message = cluster_of(one_pool(), capacity=capacity)
    assert message.circuit_breakers is not None
    assert message.circuit_breakers.thresholds[0].max_requests == limit


def routes_of(policy: Policy) -> list[route_v3.Route]:
    found = config(policy, None, {})[ROUTES].resources["gpuxds"]
    return list(route_v3.RouteConfiguration.parse(value(found)).virtual_hosts[0].routes)


def test_the_longest_prefix_comes_first() -> None:
    policy = policy_of({"a": [1], "a-long": [2], "b": [3]})
    assert [route.name for route in routes_of(policy)] == ["a-long", "a", "b"]


def test_no_route_timeout_cuts_a_generation_and_retries_go_elsewhere_before_the_first_byte() -> None:
    action = routes_of(one_pool())[0].route
    assert action is not None
    assert action.timeout == timedelta(0)
    assert action.idle_timeout == timedelta(seconds=300)
    assert action.retry_policy is not None
    assert action.retry_policy.num_retries == 3
    assert action.retry_policy.retry_on == "connect-failure,refused-stream,reset,retriable-status-codes"
    assert action.retry_policy.retriable_status_codes == [502, 503, 504]
    assert [p.name for p in action.retry_policy.retry_host_predicate] == [
        "envoy.retry_host_predicates.previous_hosts"
    ]
    assert action.retry_policy.host_selection_retry_max_attempts >= 100, (
        "a heavy endpoint is picked again and again"
    )
    off = routes_of(one_pool("    retries: {attempts: 0}\n"))[0].route
    assert off is not None
    assert off.retry_policy is None


def test_hashing_uses_the_header_or_the_cookie_of_the_policy() -> None:
    header = routes_of(one_pool("    strategy: {name: consistent_hash, header: x-user}\n"))[0].route
    cookie = routes_of(one_pool("    strategy: {name: consistent_hash, cookie: sid, header: null}\n"))[0].route
    assert header is not None
    assert cookie is not None
    assert [h.header.header_name for h in header.hash_policy if h.header] == ["x-user"]
    assert [h.cookie.name for h in cookie.hash_policy if h.cookie] == ["sid"]


def test_listeners_for_grpc_clients_are_not_part_of_everything() -> None:
    found = config(one_pool(), None, {})
    assert {name: r.on_request_only for name, r in found[LISTENER].resources.items()} == {
        "a": True,
        "gpuxds": False,
    }


def test_the_same_policy_gives_the_same_versions_and_another_one_others() -> None:
    """C27"""
    again = {type_url: found.version for type_url, found in config(one_pool(), None, {}).items()}
    assert again == {type_url: found.version for type_url, found in config(one_pool(), None, {}).items()}
    other = config(one_pool("    timeouts: {connect: 3s}\n"), None, {})
    assert other[CLUSTER].version != again[CLUSTER]
    assert other[LISTENER].version == again[LISTENER]


def test_a_snapshot_in_which_something_is_missing_is_refused_by_name() -> None:
    policy = policy_of({"a": [1], "b": [2]})
    with pytest.raises(SnapshotError, match="cluster b has no assignment"):
        assemble(config(policy, None, {}), {"a": assignment("a", [])})
    broken = {**config(policy, None, {}), CLUSTER: config(policy, frozenset({"a"}), {})[CLUSTER]}
    with pytest.raises(SnapshotError, match="gpuxds refers to Cluster b, which is absent"):
        assemble(broken, {"a": assignment("a", [])})


def test_a_retiring_cluster_stays_with_its_assignment_until_routes_have_left_it() -> None:
    """C51"""
    both, one = snapshot_of(policy_of({"a": [1], "b": [2]})), snapshot_of(policy_of({"a": [1]}))
    between = with_retired(one, both)
    assert set(between.of(CLUSTER).resources) == set(between.of(ENDPOINTS).resources) == {"a", "b"}
    assert between.of(ROUTES) == one.of(ROUTES)


def test_the_publisher_withdraws_a_cluster_after_its_routes() -> None:
    """C51"""
    two, one = policy_of({"a": [1], "b": [2]}), policy_of({"a": [1]})
    publisher = Publisher()
    publisher.configure(two, Fleet(endpoints(two)), (), now=100.0)
    publisher.assignments = {"a": assignment("a", []), "b": assignment("b", [])}
    assert set(publisher.snapshots(100.0)["all"].of(CLUSTER).resources) == {"a", "b"}
    publisher.configure(one, Fleet(endpoints(one)), (), now=101.0)
    soon = publisher.snapshots(101.5)["all"]
    assert set(soon.of(CLUSTER).resources) == {"a", "b"}
    assert "b" not in soon.of(ROUTES).resources
    assert set(publisher.snapshots(101.1 + RETIRE_AFTER_S)["all"].of(CLUSTER).resources) == {"a"}


def test_node_groups_see_their_pools_and_everybody_else_all() -> None:
    text = """
version: 1
pools:
  - {name: a, match: {prefix: /a}, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}
  - {name: b, match: {prefix: /b}, endpoints: [{id: y, address: '10.0.0.2:80', gpu: {model: L4}}]}
node_groups:
  - {name: team, cluster: front, metadata: {team: x}, pools: [b]}
"""
    policy = load_text(text, "t.yaml").policy
    assert group_of(policy.node_groups, "front", {"team": "x", "other": "y"}) == "team"
    assert group_of(policy.node_groups, "front", {}) == "all"
    assert group_of(policy.node_groups, "back", {"team": "x"}) == "all"
    assert pools_of(policy.node_groups) == {"all": None, "team": frozenset({"b"})}
    seen = config(policy, frozenset({"b"}), {})
    assert set(seen[CLUSTER].resources) == {"b"}
    assert set(seen[LISTENER].resources) == {"gpuxds", "b"}
    routes = route_v3.RouteConfiguration.parse(value(seen[ROUTES].resources["gpuxds"]))
    assert [route.name for route in routes.virtual_hosts[0].routes] == ["b"]


def test_the_bootstrap_is_incremental_and_reconnects_quickly() -> None:
    made = document(BootstrapOptions("n1", ("cp", 18000)))
    ads = made["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == "DELTA_GRPC"
    assert ads["set_node_on_first_message_only"] is True
    back_off = ads["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert back_off == {"base_interval": "0.1s", "max_interval": "1s"}
    assert "load_stats_config" in made["cluster_manager"]
    assert document(BootstrapOptions("n1", ("cp", 1), state_of_the_world=True))["dynamic_resources"]["ads_config"][
        "api_type"
    ] == "GRPC"  # fmt: skip


@pytest.mark.real("envoy")
@pytest.mark.parametrize(
    "options",
    [{}, {"state_of_the_world": True}, {"token": "t"}, {"metadata": {"team": "x"}}, {"sds_dir": True}],
    ids=str,
)
def test_the_real_envoy_accepts_every_bootstrap(tmp_path: Path, options: dict[str, Any]) -> None:
    import subprocess

    from gpuxds.assets import envoy_binary

    if "sds_dir" in options:
        options = {"sds_dir": str(tmp_path), "ca_file": str(tmp_path / "ca.pem")}
        (tmp_path / "ca.pem").write_text("")
    made = BootstrapOptions("n1", ("127.0.0.1", 18000), **options)
    if made.sds_dir:
        for name, text in sds_files(made).items():
            (tmp_path / name).write_text(text)
    path = tmp_path / "bootstrap.yaml"
    path.write_text(render(made))
    run = subprocess.run([envoy_binary(), "--mode", "validate", "-c", path], capture_output=True, check=False)
    assert b"OK" in run.stdout + run.stderr, run.stderr.decode()[-800:]


def test_a_reservation_has_a_cluster_and_a_route_for_whoever_carries_its_id() -> None:
    policy = one_pool()
    held = Reservation("the-secret", "a", ("x",), 0.0, 60.0)
    made = config(policy, None, {}, slices_of(policy.pools[0], endpoints(policy), [held]))
    assert list(made[CLUSTER].resources) == ["a", f"a/{held.name}"]
    table = route_v3.RouteConfiguration.parse(value(made[ROUTES].resources["gpuxds"]))
    reserved, shared = table.virtual_hosts[0].routes
    assert reserved.match is not None
    (carried,) = reserved.match.headers
    assert (carried.name, carried.string_match and carried.string_match.exact) == (HEADER, "the-secret")
    assert table.request_headers_to_remove == [HEADER], "endpoints would see the secret"
    assert reserved.route is not None
    assert reserved.route.cluster == f"a/{held.name}"
    assert shared.match is not None
    assert shared.match.headers == []


def test_without_reservations_nothing_is_generated_for_them() -> None:
    made = config(one_pool(), None, {})
    assert HEADER.encode() not in made[ROUTES].resources["gpuxds"].any_bytes
