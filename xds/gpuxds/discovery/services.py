"""Names of the gRPC services we answer to, and descriptors of them for reflection.

Our own small `.proto` has Envoy's messages under another package, since Envoy's names belong to Envoy's
packages. For `grpcurl` they are put back under the names that clients call, in a pool of their own.
"""

from __future__ import annotations

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES, RUNTIME
from gpuxds.wire import xds_pb2

ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
LRS = "envoy.service.load_stats.v3.LoadReportingService"
ALS = "envoy.service.accesslog.v3.AccessLogService"

STREAMS: dict[str, tuple[str, str, str]] = {
    ADS: ("StreamAggregatedResources", "DeltaAggregatedResources", ""),
    "envoy.service.cluster.v3.ClusterDiscoveryService": ("StreamClusters", "DeltaClusters", CLUSTER),
    "envoy.service.endpoint.v3.EndpointDiscoveryService": ("StreamEndpoints", "DeltaEndpoints", ENDPOINTS),
    "envoy.service.listener.v3.ListenerDiscoveryService": ("StreamListeners", "DeltaListeners", LISTENER),
    "envoy.service.route.v3.RouteDiscoveryService": ("StreamRoutes", "DeltaRoutes", ROUTES),
    "envoy.service.runtime.v3.RuntimeDiscoveryService": ("StreamRuntime", "DeltaRuntime", RUNTIME),
}
"""Service -> state-of-the-world method, incremental method, and the one type it serves (empty: all)."""

MESSAGES_PACKAGE = "envoy.service.discovery.v3"
MESSAGES_FILE = "gpuxds/reflection/messages.proto"


def descriptor_pool() -> DescriptorPool:
    """Messages and services under the names that clients call."""
    pool = DescriptorPool()
    for module in (any_pb2, duration_pb2, struct_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(messages())
    methods = {
        name: [
            (sotw, "DiscoveryRequest", "DiscoveryResponse"),
            (delta, "DeltaDiscoveryRequest", "DeltaDiscoveryResponse"),
        ]
        for name, (sotw, delta, _) in STREAMS.items()
    }
    methods[LRS] = [("StreamLoadStats", "LoadStatsRequest", "LoadStatsResponse")]
    methods[ALS] = [("StreamAccessLogs", "StreamAccessLogsMessage", "StreamAccessLogsResponse")]
    for name, found in methods.items():
        pool.Add(service(name, found))
    return pool


def messages() -> descriptor_pb2.FileDescriptorProto:
    """Our messages, renamed."""
    file = descriptor_pb2.FileDescriptorProto.FromString(xds_pb2.DESCRIPTOR.serialized_pb)
    ours = f".{file.package}."
    file.name, file.package = MESSAGES_FILE, MESSAGES_PACKAGE
    for message in file.message_type:
        for part in (message, *message.nested_type):
            for field in part.field:
                if field.type_name.startswith(ours):
                    field.type_name = f".{MESSAGES_PACKAGE}.{field.type_name[len(ours) :]}"
    return file


def service(name: str, methods: list[tuple[str, str, str]]) -> descriptor_pb2.FileDescriptorProto:
    """A file with one service whose methods stream; access logs are answered once, when they end."""
    package, _, short = name.rpartition(".")
    return descriptor_pb2.FileDescriptorProto(
        name=f"gpuxds/reflection/{short}.proto",
        package=package,
        syntax="proto3",
        dependency=[MESSAGES_FILE],
        service=[
            descriptor_pb2.ServiceDescriptorProto(
                name=short,
                method=[
                    descriptor_pb2.MethodDescriptorProto(
                        name=method,
                        input_type=f".{MESSAGES_PACKAGE}.{request}",
                        output_type=f".{MESSAGES_PACKAGE}.{response}",
                        client_streaming=True,
                        server_streaming=name != ALS,
                    )
                    for method, request, response in methods
                ],
            )
        ],
    )
