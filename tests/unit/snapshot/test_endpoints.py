"""Assignments: the fast path says what the slow one would, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.fleet.endpoint import Endpoint, Gpu, MetricsTargets
from gpuxds.snapshot.endpoints import MAX_WEIGHT, AssignmentEncoder
from gpuxds.snapshot.model import ENDPOINTS, Resource
from gpuxds.wire import xds_pb2 as pb


def endpoint(ip: str | None, port: int = 8000) -> Endpoint:
    return Endpoint(
        f"{ip}-{port}", "p", ip or "?", port, Gpu("A100-80", 80), 100, MetricsTargets("http://x"), ip=ip
    )


def encode(
    encoder: AssignmentEncoder,
    endpoints: Sequence[Endpoint],
    weights: Sequence[int],
    health: Sequence[int] | None = None,
    in_eds: Sequence[bool] | None = None,
) -> Resource:
    count = len(endpoints)
    return encoder.encode(
        endpoints,
        np.array(weights, dtype=np.int64),
        np.array(health if health is not None else [1] * count, dtype=np.int64),
        np.array(in_eds if in_eds is not None else [True] * count, dtype=np.bool_),
    )


def read(resource: Resource) -> dict[tuple[str, int], tuple[int, int]]:
    """(ip, port) -> (weight, health), as a protobuf parser sees it."""
    packed = AnyMessage.FromString(resource.any_bytes)
    assert packed.type_url == ENDPOINTS
    message = pb.ClusterLoadAssignment.FromString(packed.value)
    assert message.cluster_name == resource.name
    return {
        (e.endpoint.address.socket_address.address, e.endpoint.address.socket_address.port_value): (
            e.load_balancing_weight.value, e.health_status,
        )
        for group in message.endpoints
        for e in group.lb_endpoints
    }  # fmt: skip


FLEET = [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("fd00::1")]


def test_weights_and_health_are_what_was_decided_and_ipv6_is_an_address_like_any() -> None:
    found = read(encode(AssignmentEncoder("p"), FLEET, [1, 1_000_000, MAX_WEIGHT], [1, 2, 3]))
    assert found == {
        ("10.0.0.1", 8000): (1, 1),
        ("10.0.0.2", 8000): (1_000_000, 2),
        ("fd00::1", 8000): (MAX_WEIGHT, 3),
    }


@given(
    st.lists(st.integers(1, MAX_WEIGHT), min_size=3, max_size=3),
    st.lists(st.sampled_from([1, 2, 3]), min_size=3, max_size=3),
)
def test_patching_gives_the_bytes_that_laying_out_anew_gives(weights: list[int], health: list[int]) -> None:
    """C27: and so one version, whatever a server did before."""
    patched = AssignmentEncoder("p")
    encode(patched, FLEET, [5, 5, 5])
    assert encode(patched, FLEET, weights, health) == encode(AssignmentEncoder("p"), FLEET, weights, health)


def test_the_order_in_which_endpoints_are_known_does_not_matter() -> None:
    """C27"""
    one = encode(AssignmentEncoder("p"), FLEET, [1, 2, 3])
    other = encode(AssignmentEncoder("p"), FLEET[::-1], [3, 2, 1])
    assert one == other
    assert encode(AssignmentEncoder("p"), FLEET, [1, 2, 4]).version != one.version


@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3))
def test_no_weight_leaves_its_bounds(weights: list[int]) -> None:
    """C70"""
    assert all(
        1 <= weight <= MAX_WEIGHT for weight, _ in read(encode(AssignmentEncoder("p"), FLEET, weights)).values()
    )


def test_an_address_is_listed_once() -> None:
    """C71"""
    found = encode(AssignmentEncoder("p"), [FLEET[0], FLEET[0], FLEET[1]], [7, 8, 9])
    assert read(found) == {("10.0.0.1", 8000): (7, 1), ("10.0.0.2", 8000): (9, 1)}


def test_one_locality_with_a_name_and_a_weight_and_one_priority() -> None:
    """C72, C74"""
    packed = AnyMessage.FromString(encode(AssignmentEncoder("p"), FLEET, [1, 2, 3]).any_bytes)
    (group,) = pb.ClusterLoadAssignment.FromString(packed.value).endpoints
    assert group.locality.region
    assert group.load_balancing_weight.value > 0
    assert group.priority == 0


def test_a_pool_without_endpoints_is_an_empty_assignment() -> None:
    """C42"""
    resource = encode(AssignmentEncoder("p"), FLEET, [1, 2, 3], in_eds=[False] * 3)
    assert read(resource) == {}
    assert pb.ClusterLoadAssignment.FromString(AnyMessage.FromString(resource.any_bytes).value).cluster_name == "p"


def test_endpoints_that_are_out_of_eds_are_left_out_and_come_back() -> None:
    encoder = AssignmentEncoder("p")
    encode(encoder, FLEET, [1, 2, 3])
    assert set(read(encode(encoder, FLEET, [1, 2, 3], in_eds=[True, False, True]))) == {
        ("10.0.0.1", 8000),
        ("fd00::1", 8000),
    }
    assert len(read(encode(encoder, FLEET, [1, 2, 3]))) == 3


def test_envoys_own_schema_reads_the_same_and_sees_no_time_to_live() -> None:
    """C73"""
    packed = AnyMessage.FromString(encode(AssignmentEncoder("p"), FLEET, [1, 300, 70_000], [1, 2, 3]).any_bytes)
    message = endpoint_v3.ClusterLoadAssignment.parse(packed.value)
    assert [e.load_balancing_weight for e in message.endpoints[0].lb_endpoints] == [1, 300, 70_000]
    assert [int(e.health_status) for e in message.endpoints[0].lb_endpoints] == [1, 2, 3]
    assert message.policy is None


@pytest.mark.parametrize("count", [0, 1, 127, 5000])
def test_any_number_of_endpoints(count: int) -> None:
    fleet = [endpoint(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 8000 + n % 3) for n in range(count)]
    assert len(read(encode(AssignmentEncoder("p"), fleet, list(range(1, count + 1))))) == count
