"""What guards would be told, as one bootstrap that needs no control plane, for the binary to validate.

The guards of a pool differ in address, port and capacity only, and Envoy takes every address and port that a policy
may state. So those with the smallest and the largest capacity stand for all of their pool, and thousands of guards
take no longer than two. A pool whose endpoints come later is shown one that is made up.

Every guard is told the same names. In one bootstrap, what several are told alike stands once, and what differs is
named after its endpoint, except for the first, to which all references lead. Ports are left out: guards on
different hosts share them, and Envoy refuses two listeners with one port although it binds none to validate them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap_v3
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.extensions.bootstrap.internal_listener import v3 as internal_listener
from envoy_data_plane.google.protobuf import Any as PackedMessage
from envoy_data_plane.google.protobuf import Struct

from gpuxds.fleet.endpoint import Endpoint, Fleet, Gpu, MetricsTargets
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.snapshot.guards import snapshot_of_guard
from gpuxds.snapshot.model import CLUSTER, LISTENER, RUNTIME, Snapshot
from gpuxds.snapshot.static import value
from gpuxds.wire import xds_pb2

ANYWHERE = "192.0.2.1"
"""Address of an endpoint whose host name was not looked up; RFC 5737 keeps it for documents."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A guard that stands for others of its pool."""

    pool: int
    """Position of its pool in the policy."""
    endpoint: Endpoint
    snapshot: Snapshot


def samples(policy: Policy, fleet: Fleet) -> list[Sample]:
    """The guards to show, one or two for each pool that has guards; empty for a policy without."""
    found = []
    for index, pool in enumerate(policy.pools):
        if pool.guard is not None:
            peers = fleet.pool(pool.name) or (made_up(pool),)
            found += [Sample(index, e, snapshot_of_guard(policy, pool, e, len(peers))) for e in extremes(peers)]
    return found


def extremes(peers: Sequence[Endpoint]) -> Iterator[Endpoint]:
    """Endpoints with the smallest and the largest capacity, once if that is the same; each with an address."""
    found = sorted(peers, key=lambda endpoint: endpoint.capacity)
    for endpoint in found[:1] if found[0].capacity == found[-1].capacity else (found[0], found[-1]):
        yield replace(endpoint, ip=endpoint.ip or ANYWHERE)


def made_up(pool: PoolSpec) -> Endpoint:
    """An endpoint of a pool that has none yet."""
    return Endpoint(f"any-of-{pool.name}", pool.name, ANYWHERE, 80, Gpu("any", 1.0), 1, MetricsTargets(""))


def static_guards(shown: Sequence[Sample]) -> bytes:
    """A serialised envoy.config.bootstrap.v3.Bootstrap of all these guards; runtime values are static layers."""
    layers = [
        bootstrap_v3.RuntimeLayer(name=f"{layer.name} of {sample.endpoint.id}", static_layer=values(layer))
        for sample in shown
        for found in sample.snapshot.of(RUNTIME).resources.values()
        for layer in [xds_pb2.Runtime.FromString(value(found))]
    ]
    inside = core.TypedExtensionConfig(
        name="envoy.bootstrap.internal_listener",
        typed_config=PackedMessage.pack(internal_listener.InternalListener()),
    )
    message = bootstrap_v3.Bootstrap(
        node=core.Node(id="check", cluster="check"),
        static_resources=bootstrap_v3.BootstrapStaticResources(
            listeners=[listener(name, encoded) for name, encoded in distinct(shown, LISTENER)],
            clusters=[cluster(name, encoded) for name, encoded in distinct(shown, CLUSTER)],
        ),
        layered_runtime=bootstrap_v3.LayeredRuntime(layers=layers),
        bootstrap_extensions=[inside],
    )
    return bytes(message)


def values(layer: xds_pb2.Runtime) -> Struct:
    """The values of a layer."""
    return Struct.parse(layer.layer.SerializeToString())


def distinct(shown: Sequence[Sample], type_url: str) -> Iterator[tuple[str, bytes]]:
    """Name and message of all resources of a type, each with a name of its own."""
    versions: dict[str, set[str]] = {}
    for sample in shown:
        for found in sample.snapshot.of(type_url).resources.values():
            before = versions.setdefault(found.name, set())
            if found.version not in before:
                yield f"{found.name} of {sample.endpoint.id}" if before else found.name, value(found)
            before.add(found.version)


def cluster(name: str, encoded: bytes) -> cluster_v3.Cluster:
    """A cluster under this name."""
    message = cluster_v3.Cluster.parse(encoded)
    message.name = name
    return message


def listener(name: str, encoded: bytes) -> listener_v3.Listener:
    """A listener under this name, on any port."""
    message = listener_v3.Listener.parse(encoded)
    message.name = name
    if message.address is not None and message.address.socket_address is not None:
        message.address.socket_address.port_value = 0
    return message
