"""What guards are told, and what changes in the proxies for their sake; nothing without them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.engine.guards import GuardBook, Snapshots
from gpuxds.errors import PolicyError
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.snapshot.bootstrap import BootstrapOptions, document, render
from gpuxds.snapshot.capacity import guarded_limits, patient_attempt, room
from gpuxds.snapshot.groups import group_of
from gpuxds.snapshot.guards import ENGINE, GUARD, NOTHING, PAUSE, WALL
from gpuxds.snapshot.lua import literal
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES, RUNTIME, Resource, Snapshot
from gpuxds.snapshot.priorities import kept_free
from gpuxds.snapshot.resources import config
from gpuxds.wire import xds_pb2

QUEUE = "    guard: {queue: {timeout: 2500ms, max_waiting: 7}}\n"
PRIORITIES = (
    "priorities:\n  trusted_headers: [x-team]\n"
    "  rules: [{header: x-team, values: [shop], priority: HIGH}, {header: x-team, values: [bulk], priority: LOW}]\n"
)


def policy_of(guard: str = QUEUE, rest: str = "", capacity: int = 4) -> Policy:
    text = f"""\
version: 1
pools:
  - name: a
{guard}    endpoints:
      - {{id: x, address: "10.0.0.1:8000", gpu: {{model: L4}}, capacity: {capacity}}}
      - {{id: y, address: "10.0.0.2:8000", gpu: {{model: L4}}, capacity: 9}}
{rest}"""
    return load_text(text, "t.yaml").policy


def told(policy: Policy, endpoint_id: str = "x") -> Snapshot:
    return GuardBook(policy, Fleet(endpoints(policy))).of(endpoint_id)


def text_of(resource: Resource) -> str:
    return AnyMessage.FromString(resource.any_bytes).value.decode("utf-8", "replace")


def test_a_guard_is_told_its_own_limits_and_where_its_engine_is() -> None:
    snapshot = told(policy_of())
    script = text_of(snapshot.of(LISTENER).resources[GUARD])
    for line in (
        "CAPACITY = 4",
        "MAX_WAITING = 7",
        "TIMEOUT_MS = 2500",
        "PATIENT_ATTEMPT = 2",
        'RETRY_AFTER_S = "2"',
    ):
        assert f"local {line}\n" in script
    engine = endpoint_v3.ClusterLoadAssignment.parse(
        AnyMessage.FromString(snapshot.of(ENDPOINTS).resources[ENGINE].any_bytes).value
    )
    host = engine.endpoints[0].lb_endpoints[0].endpoint
    assert host is not None
    assert host.address is not None
    assert host.address.socket_address is not None
    assert (host.address.socket_address.address, host.address.socket_address.port_value) == ("10.0.0.1", 8000)
    listener = listener_v3.Listener.parse(
        AnyMessage.FromString(snapshot.of(LISTENER).resources[GUARD].any_bytes).value
    )
    assert listener.address is not None
    assert listener.address.socket_address is not None
    assert listener.address.socket_address.port_value == 9000


def test_proxies_send_requests_to_the_guard_and_metrics_come_from_the_engine() -> None:
    guarded, plain = endpoints(policy_of())[0], endpoints(policy_of(""))[0]
    assert (guarded.proxied_port, guarded.metrics.engine_url) == (9000, "http://10.0.0.1:8000/metrics")
    assert (plain.proxied_port, plain.guard_port) == (8000, None)


def test_without_a_queue_there_is_nothing_to_sleep_with() -> None:
    snapshot = told(policy_of("    guard: {}\n"))
    assert set(snapshot.of(CLUSTER).resources) == {ENGINE, WALL}
    assert set(snapshot.of(LISTENER).resources) == {GUARD, WALL}
    assert set(told(policy_of()).of(LISTENER).resources) == {GUARD, PAUSE, WALL}


def test_a_policy_without_guards_has_nothing_of_them() -> None:
    made = config(policy_of(""), None, {"a": 13.0})
    everything = "".join(
        text_of(found) for kind in (CLUSTER, LISTENER, ROUTES) for found in made[kind].resources.values()
    )
    for word in ("x-gpuxds-refused", "retriable-headers", "at_capacity"):
        assert word not in everything
    assert told(policy_of("")) is NOTHING


def test_a_full_guard_is_left_for_another_endpoint_and_what_waited_is_not_tried_again() -> None:
    made = config(policy_of(), None, {"a": 13.0})
    routes = route_v3.RouteConfiguration.parse(
        AnyMessage.FromString(made[ROUTES].resources["gpuxds"].any_bytes).value
    )
    host = routes.virtual_hosts[0]
    assert host.include_request_attempt_count
    action = host.routes[-1].route
    assert action is not None
    assert action.retry_policy is not None
    assert action.retry_policy.retry_on.endswith(",retriable-headers")
    (matcher,) = action.retry_policy.retriable_headers
    assert matcher.name == "x-gpuxds-refused"
    assert matcher.string_match is not None
    assert matcher.string_match.exact == "elsewhere"


@pytest.mark.parametrize(
    ("attempts", "peers", "waits_at"),
    [(3, 1, 1), (3, 2, 2), (3, 9, 4), (0, 9, 1), (3, 0, 1)],
    ids=["nowhere else to go", "after both", "at the last try", "no retries", "not in its pool any more"],
)
def test_a_request_waits_when_it_has_nowhere_else_to_go(attempts: int, peers: int, waits_at: int) -> None:
    policy = policy_of(f"{QUEUE}    retries: {{attempts: {attempts}}}\n")
    assert patient_attempt(policy.pools[0], peers) == waits_at


def test_a_proxy_lets_through_more_than_guards_take_and_counts_those_that_wait() -> None:
    policy = policy_of(capacity=200)
    most = room(endpoints(policy)[0], policy.pools[0])
    assert most == 207
    (limits,) = guarded_limits(most).thresholds
    assert limits.max_requests is not None
    assert limits.max_connections is not None
    assert 4 * most <= limits.max_requests <= 8 * most
    assert limits.max_connections > limits.max_requests, "requests never wait for a connection"


@pytest.mark.parametrize(
    ("capacity", "percent", "kept"),
    [(100, 10.0, (20, 10, 0, 0)), (4, 10.0, (2, 1, 0, 0)), (1, 10.0, (0, 0, 0, 0)), (2, 50.0, (1, 1, 0, 0)),
     (8, 0.0, (0, 0, 0, 0))],
)  # fmt: skip
def test_lower_levels_leave_room_to_higher_ones_and_each_may_run_something(
    capacity: int, percent: float, kept: tuple[int, ...]
) -> None:
    assert kept_free(capacity, percent) == kept


def test_rules_become_levels_and_without_priorities_all_are_alike() -> None:
    script = text_of(told(policy_of(rest=PRIORITIES)).of(LISTENER).resources[GUARD])
    assert "local KEPT_FREE = {2, 1, 0, 0}\nlocal DEFAULT_LEVEL = 2\n" in script
    assert '{["header"] = "x-team", ["levels"] = {["shop"] = 3}}' in script
    plain = text_of(told(policy_of()).of(LISTENER).resources[GUARD])
    assert "local KEPT_FREE = {0, 0, 0, 0}\nlocal DEFAULT_LEVEL = 2\nlocal RULES = {}\n" in plain


def test_a_tenant_has_a_priority_by_the_header_the_proxies_set() -> None:
    rest = (
        "tenants: {header: x-team, default: {requests_per_second: 5}}\n"
        "priorities: {rules: [{tenants: [acme], priority: URGENT}]}\n"
    )
    script = text_of(told(policy_of(rest=rest)).of(LISTENER).resources[GUARD])
    assert '{["header"] = "x-gpuxds-tenant", ["levels"] = {["acme"] = 4}}' in script


@given(st.text())
def test_no_value_of_a_policy_can_become_a_program(value: str) -> None:
    written = literal(value)
    assert re.fullmatch(r'"([A-Za-z0-9 _./:-]|\\\d{3})*"', written)
    read = re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1])]), written[1:-1].encode())
    assert read.decode() == value


def test_a_guard_that_is_told_the_same_keeps_the_same_snapshot_and_others_are_not_made() -> None:
    policy = policy_of()
    fleet = Fleet(endpoints(policy))
    first = GuardBook(policy, fleet)
    told_first = first.of("x")
    assert set(first.made) == {"x"}
    again = GuardBook(policy, fleet, first.made)
    assert again.of("x") is told_first
    edited = policy_of(capacity=5)
    changed = GuardBook(edited, Fleet(endpoints(edited)), again.made).of("x")
    assert changed is not told_first
    assert changed.of(CLUSTER) == told_first.of(CLUSTER), "connections to the engine stay"


@pytest.mark.parametrize("edited", [{"rest": PRIORITIES}, {"capacity": 5}])
def test_an_edit_leaves_the_wall_and_what_it_counts_alone(edited: dict[str, Any]) -> None:
    before, after = told(policy_of()), told(policy_of(**edited))
    assert before.of(LISTENER).resources[GUARD] != after.of(LISTENER).resources[GUARD]
    assert before.of(LISTENER).resources[WALL] == after.of(LISTENER).resources[WALL]
    assert before.of(CLUSTER).resources[ENGINE] == after.of(CLUSTER).resources[ENGINE]


def test_what_counts_is_the_same_for_every_policy_and_stays_when_the_endpoint_goes() -> None:
    other = "    timeouts: {connect: 3s}\n    protocol: http2\n    guard: {}\n"
    told_other = told(policy_of(other), "y")
    assert told_other.of(CLUSTER).resources[WALL] != told(policy_of()).of(CLUSTER).resources[WALL], (
        "it is told of HTTP/2"
    )
    for snapshot in (told(policy_of()), told_other):
        assert snapshot.of(CLUSTER).resources[ENGINE] == NOTHING.of(CLUSTER).resources[ENGINE]
    assert most_requests(NOTHING) == 0


def test_the_limit_of_the_wall_is_the_capacity_and_names_the_cluster_of_the_engine() -> None:
    (asked_for,) = document(BootstrapOptions("g", ("cp", 1), guarded="x"))["layered_runtime"]["layers"]
    snapshot = told(policy_of(capacity=5))
    assert set(snapshot.of(RUNTIME).resources) == {asked_for["rtds_layer"]["name"]}
    assert most_requests(snapshot) == 5


def most_requests(snapshot: Snapshot) -> float:
    (found,) = snapshot.of(RUNTIME).resources.values()
    layer = xds_pb2.Runtime.FromString(AnyMessage.FromString(found.any_bytes).value).layer
    return layer.fields[f"circuit_breakers.{ENGINE}.default.max_requests"].number_value


def test_the_guard_of_an_unknown_endpoint_is_told_nothing_and_no_proxy_is_a_guard() -> None:
    policy = policy_of()
    both = Snapshots({"all": NOTHING}, GuardBook(policy, Fleet(endpoints(policy))))
    assert both["guard:nobody"] is NOTHING
    assert both["guard:x"].of(LISTENER).resources
    assert list(both) == ["all"]
    assert group_of((), "gpuxds", {"role": "guard", "endpoint": "x"}) == "guard:x"
    assert group_of((), "gpuxds", {"endpoint": "x"}) == "all"


def test_the_bootstrap_of_a_guard_says_what_it_is_and_reports_no_load() -> None:
    options = BootstrapOptions("g", ("cp", 18000), metadata={"rack": "7"}, guarded="x")
    made = document(options)
    assert made["node"]["metadata"] == {"rack": "7", "role": "guard", "endpoint": "x"}
    assert "cluster_manager" not in made
    assert made["bootstrap_extensions"][0]["name"] == "envoy.bootstrap.internal_listener"
    assert "--concurrency 1" in render(options)


WRONG = [
    ("    guard: {port_offset: 60000}\n", "", "port 8000 plus the guard's port_offset of 60000 is above 65535"),
    ("    guard: {address: gpu-host}\n", "", "'gpu-host' is not an IP address"),
    ("    guard: {queue: {timeout: 0s}}\n", "", "must be longer than 0s; leave queue out"),
    ("    guard: {queue: {max_waiting: 0}}\n", "", "must be at least 1"),
    (f"{QUEUE}    hedging: {{after: 2s}}\n", "", "pools[0].hedging: is not possible with guard: a hedged"),
    ("    guard: {}\n    retries: {on_status: [503, 429]}\n", "", "on_status[1]: 429 is what a guard answers"),
    (f"{QUEUE}    timeouts: {{idle: 2s}}\n", "", "idle: 2 s is not longer than guard.queue.timeout of 2.5 s"),
    (f"{QUEUE}    timeouts: {{idle: 2500ms}}\n", "", "idle: 2.5 s is not longer than guard.queue.timeout"),
    ("    guard: {queue: {timeout: 10m}}\n", "", "timeouts.idle: 300 s is not longer than guard.queue.timeout"),
    (f"{QUEUE}    timeouts: {{request: 2s}}\n", "", "timeouts.request: 2.4 s with its buffer is not longer"),
    (f"{QUEUE}    retries: {{stuck_after: 1s}}\n", "", "stuck_after: 1 s is not longer than guard.queue.timeout"),
    ("", PRIORITIES, "no pool has them; give pools[].guard"),
    (QUEUE, PRIORITIES.replace("[x-team]", "[]"), "clients can send 'x-team' themselves"),
    (QUEUE, PRIORITIES.replace("HIGH", "high"), "not allowed: 'high'; allowed: LOW, NORMAL, HIGH, URGENT"),
    (QUEUE, PRIORITIES.replace("header: x-team", "header: X-Team"), "'X-Team' must match"),
    (QUEUE, "node_groups: [{name: 'guard:x', cluster: c, pools: [a]}]\n", "names that begin with 'guard:'"),
]


@pytest.mark.parametrize(("guard", "rest", "expected"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_what_a_guard_could_not_do_is_refused_in_words(guard: str, rest: str, expected: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy_of(guard, rest)
    assert any(expected in str(problem) for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    "parts",
    [
        f"{QUEUE}    timeouts: {{idle: 0s, request: 0s}}\n    retries: {{stuck_after: 0s}}\n",
        f"{QUEUE}    timeouts: {{idle: 2600ms, request: 2100ms}}\n    retries: {{stuck_after: 2600ms}}\n",
        "    guard: {}\n    timeouts: {idle: 2s, request: 1s}\n    retries: {stuck_after: 1s}\n",
        "    timeouts: {idle: 2s}\n    retries: {stuck_after: 1s, on_status: [429]}\n    hedging: {after: 1s}\n",
    ],
    ids=["no limits", "longer than the wait", "nobody waits", "no guard"],
)
def test_other_limits_and_tries_are_free_where_they_do_not_get_in_the_way_of_waiting(parts: str) -> None:
    assert policy_of(parts).pools


def test_a_guard_does_not_listen_where_an_engine_does() -> None:
    text = (
        "version: 1\npools:\n  - name: a\n    guard: {port_offset: 1}\n    endpoints:\n"
        "      - {id: x, address: '10.0.0.1:8000', gpu: {model: L4}}\n"
        "      - {id: y, address: '10.0.0.1:8001', gpu: {model: L4}}\n"
    )
    with pytest.raises(PolicyError) as refused:
        load_text(text, "t.yaml")
    assert "would listen on port 8001, the address of pools[0].endpoints[1]" in str(refused.value.problems[0])
