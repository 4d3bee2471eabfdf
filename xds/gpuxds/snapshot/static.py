"""Everything one Envoy would be told, as a bootstrap that needs no control plane, for the binary to validate.

Envoy validates what stands in its bootstrap: clusters and listeners under their own messages, and routes only
inside a listener. So each listener gets the routes it would have fetched, and those must name clusters that are
there. Listeners that only gRPC clients fetch are given an address, since their routes are worth the same look.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/cli (`--mode validate`)
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap_v3
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any as PackedMessage
from google.protobuf.any_pb2 import Any

from gpuxds.snapshot.bootstrap import UPSTREAM
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, Resource, ResourceSet


def static_bootstrap(sets: Mapping[str, ResourceSet]) -> bytes:
    """A serialised envoy.config.bootstrap.v3.Bootstrap of generated resources, which are given by type URL.

    Envoy reads it from a file that ends with `.pb`. Nothing is left to be fetched but endpoints.
    """
    tables = {
        name: route_v3.RouteConfiguration.parse(value(found)) for name, found in sets[ROUTES].resources.items()
    }
    clusters = [cluster_v3.Cluster.parse(value(found)) for found in sets[CLUSTER].resources.values()]
    listeners = [
        with_routes(listener_v3.Listener.parse(value(found)), tables) for found in sets[LISTENER].resources.values()
    ]
    control_plane = cluster_v3.Cluster(name=UPSTREAM, type=cluster_v3.ClusterDiscoveryType.STATIC)
    service = core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=UPSTREAM))
    ads = core.ApiConfigSource(
        api_type=core.ApiConfigSourceApiType.GRPC,
        transport_api_version=core.ApiVersion.V3,
        grpc_services=[service],
    )
    message = bootstrap_v3.Bootstrap(
        node=core.Node(id="check", cluster="check"),
        static_resources=bootstrap_v3.BootstrapStaticResources(
            listeners=listeners, clusters=[*clusters, control_plane]
        ),
        dynamic_resources=bootstrap_v3.BootstrapDynamicResources(ads_config=ads),
    )
    return bytes(message)


def with_routes(
    listener: listener_v3.Listener, tables: Mapping[str, route_v3.RouteConfiguration]
) -> listener_v3.Listener:
    """A listener that has its routes, and an address, with it."""
    if listener.api_listener is not None:
        packed = listener.api_listener.api_listener
        listener.api_listener = None
        anywhere = core.SocketAddress(address="127.0.0.1", port_value=0)
        listener.address = core.Address(socket_address=anywhere)
        listener.filter_chains = [listener_v3.FilterChain(filters=[listener_v3.Filter(name="http")])]
    else:
        packed = listener.filter_chains[0].filters[0].typed_config
    assert packed is not None
    manager = hcm.HttpConnectionManager.parse(packed.value)
    assert manager.rds is not None
    table = tables[manager.rds.route_config_name]
    table.validate_clusters = True
    manager.rds, manager.route_config = None, table
    listener.filter_chains[0].filters[0].typed_config = PackedMessage.pack(manager)
    return listener


def value(resource: Resource) -> bytes:
    """The message inside a resource."""
    return Any.FromString(resource.any_bytes).value
