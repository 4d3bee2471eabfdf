"""Our small schema is a part of Envoy's: same names, same numbers, same bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.data.accesslog import v3 as log_data
from envoy_data_plane.envoy.service.accesslog import v3 as log_service
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from envoy_data_plane.envoy.service.load_stats import v3 as load_stats
from envoy_data_plane.envoy.service.runtime import v3 as runtime

from gpuxds.wire import xds_pb2 as pb

THEIRS: dict[str, Any] = {
    "Locality": core.Locality, "Node": core.Node, "SocketAddress": core.SocketAddress, "Address": core.Address,
    "Endpoint": endpoint.Endpoint, "LbEndpoint": endpoint.LbEndpoint,
    "LocalityLbEndpoints": endpoint.LocalityLbEndpoints,
    "ClusterLoadAssignment": endpoint.ClusterLoadAssignment,
    "DiscoveryRequest": discovery.DiscoveryRequest, "DiscoveryResponse": discovery.DiscoveryResponse,
    "DeltaDiscoveryRequest": discovery.DeltaDiscoveryRequest,
    "DeltaDiscoveryResponse": discovery.DeltaDiscoveryResponse, "Resource": discovery.Resource,
    "UpstreamEndpointStats": endpoint.UpstreamEndpointStats,
    "UpstreamLocalityStats": endpoint.UpstreamLocalityStats, "ClusterStats": endpoint.ClusterStats,
    "AccessLogCommon": log_data.AccessLogCommon, "HTTPResponseProperties": log_data.HttpResponseProperties,
    "HTTPAccessLogEntry": log_data.HttpAccessLogEntry,
    "HTTPAccessLogEntries": log_service.StreamAccessLogsMessageHttpAccessLogEntries,
    "StreamAccessLogsMessage": log_service.StreamAccessLogsMessage,
    "StreamAccessLogsResponse": log_service.StreamAccessLogsResponse,
    "LoadStatsRequest": load_stats.LoadStatsRequest, "LoadStatsResponse": load_stats.LoadStatsResponse,
    "Runtime": runtime.Runtime,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_fields_have_envoys_names_and_numbers(name: str) -> None:
    theirs = {field.name: field.metadata["betterproto"].number for field in dataclasses.fields(THEIRS[name])}
    ours = {field.name: field.number for field in getattr(pb, name).DESCRIPTOR.fields}
    assert ours.items() <= theirs.items()


def test_every_message_of_ours_is_compared_or_googles() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) - {"Status"} == set(THEIRS)


def test_bytes_are_the_same() -> None:
    ours = pb.DeltaDiscoveryRequest(
        node=pb.Node(id="n", cluster="c"), type_url="t", resource_names_subscribe=["a", "b"],
        resource_names_unsubscribe=["x"], initial_resource_versions={"a": "1"}, response_nonce="7",
    )  # fmt: skip
    theirs = discovery.DeltaDiscoveryRequest(
        node=core.Node(id="n", cluster="c"), type_url="t", resource_names_subscribe=["a", "b"],
        resource_names_unsubscribe=["x"], initial_resource_versions={"a": "1"}, response_nonce="7",
    )  # fmt: skip
    assert ours.SerializeToString(deterministic=True) == bytes(theirs)
