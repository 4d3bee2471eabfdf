"""The hot path: a decision becomes a ClusterLoadAssignment by patching bytes in place.

An assignment of 10,000 endpoints is 330 KB of which only weights and health change from second to second.
So the layout is fixed: every weight is a varint padded to five bytes (which protobuf allows, and upb and
Envoy read as the number it is) and every health status one byte. While the addresses stay the same, numpy
writes both columns into a copy of the last layout. The same content gives the same bytes, whether it was laid
out anew or patched, since endpoints are ordered by address and both paths write weights the same way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.snapshot.model import ENDPOINTS, Resource
from gpuxds.snapshot.versions import version_of
from gpuxds.wire import xds_pb2 as pb
from gpuxds.wire.framing import framed

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HEALTH_TAG = b"\x10"
"""LbEndpoint.health_status = 2, varint."""
WEIGHT_HEAD = b"\x22\x06\x08"
"""LbEndpoint.load_balancing_weight = 4, 6 bytes long, holding UInt32Value.value = 1."""
WEIGHT_BYTES = 5
TAIL = HEALTH_TAG + b"\x01" + WEIGHT_HEAD + b"\x81\x80\x80\x80\x00"
"""What follows an endpoint's address: health, then weight."""
HEALTH_AT = len(TAIL) - 1
WEIGHT_AT = WEIGHT_BYTES
"""Offsets of both values, counted back from the end of the endpoint."""

LOCALITY = pb.Locality(region="default")
"""One locality for all. It has a name and a weight because gRPC drops localities that lack either."""

MAX_WEIGHT = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Encoded bytes of an assignment, and where its changing values are."""

    addresses: tuple[tuple[str, int], ...]
    """What the layout was built for, in the order of the decision's rows that are in EDS."""
    rows: npt.NDArray[np.intp]
    """For each encoded endpoint, its row among those."""
    template: npt.NDArray[np.uint8]
    health_at: npt.NDArray[np.intp]
    weight_at: npt.NDArray[np.intp]
    """Shape (endpoints, 5)."""


class AssignmentEncoder:
    """Encodes one cluster's assignments; remembers the last layout."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.layout: Layout | None = None
        self.laid_out: tuple[Sequence[Endpoint], Bools] = ((), np.zeros(0, dtype=np.bool_))
        """What the layout was made of."""

    def stale(self, endpoints: Sequence[Endpoint], in_eds: Bools) -> bool:
        """Whether the layout is for other addresses than these. The same tuple is not looked through again."""
        if self.layout is None:
            return True
        before, kept_before = self.laid_out
        if endpoints is before and np.array_equal(in_eds, kept_before):
            return False
        same = self.layout.addresses == addresses_of(endpoints, in_eds)
        if same:
            self.laid_out = (endpoints, in_eds)
        return not same

    def encode(self, endpoints: Sequence[Endpoint], weights: Ints, envoy_health: Ints, in_eds: Bools) -> Resource:
        """The assignment of the endpoints that are in EDS; all arrays are in the order of `endpoints`."""
        if self.layout is None or self.stale(endpoints, in_eds):
            self.layout = lay_out(self.cluster, addresses_of(endpoints, in_eds))
            self.laid_out = (endpoints, in_eds)
        rows = np.flatnonzero(in_eds)[self.layout.rows]
        content = self.layout.template.copy()
        content[self.layout.health_at] = envoy_health[rows].astype(np.uint8)
        content[self.layout.weight_at] = padded_varints(weights[rows])
        encoded = content.tobytes()
        return Resource(self.cluster, version_of(encoded), encoded)


def addresses_of(endpoints: Sequence[Endpoint], in_eds: Bools) -> tuple[tuple[str, int], ...]:
    """IP and port of the endpoints that are in EDS."""
    return tuple((endpoints[row].ip or "", endpoints[row].proxied_port) for row in np.flatnonzero(in_eds).tolist())


def lay_out(cluster: str, addresses: tuple[tuple[str, int], ...]) -> Layout:
    """A layout for these addresses. Of several rows with one address the first is encoded (C71)."""
    first: dict[tuple[str, int], int] = {}
    for row, address in enumerate(addresses):
        first.setdefault(address, row)
    ordered = sorted(first.items(), key=lambda item: sort_key(item[0]))
    parts = [lb_endpoint(ip, port) for (ip, port), _ in ordered]
    locality = framed(1, LOCALITY.SerializeToString()) + b"".join(parts) + framed(3, b"\x08\x01")
    group = framed(2, locality) if parts else b""
    value = framed(1, cluster.encode()) + group
    whole = framed(1, ENDPOINTS.encode()) + framed(2, value)
    after_endpoints = len(framed(3, b"\x08\x01"))
    ends = np.cumsum([len(part) for part in parts], dtype=np.intp)
    start = len(whole) - after_endpoints - (int(ends[-1]) if parts else 0)
    health_at = start + ends - HEALTH_AT
    weight_at = (start + ends - WEIGHT_AT)[:, None] + np.arange(WEIGHT_BYTES)
    rows = np.array([row for _, row in ordered], dtype=np.intp)
    return Layout(addresses, rows, np.frombuffer(whole, dtype=np.uint8), health_at, weight_at)


def sort_key(address: tuple[str, int]) -> tuple[int, int, int]:
    """IP version, IP, port: an order that depends on nothing but the addresses themselves."""
    ip = ipaddress.ip_address(address[0])
    return ip.version, int(ip), address[1]


def lb_endpoint(ip: str, port: int) -> bytes:
    """A framed LbEndpoint whose health and weight are yet to be written."""
    address = pb.Address(socket_address=pb.SocketAddress(address=ip, port_value=port))
    return framed(2, framed(1, pb.Endpoint(address=address).SerializeToString()) + TAIL)


def padded_varints(values: Ints) -> npt.NDArray[np.uint8]:
    """Numbers of up to 35 bits as five bytes each. Shape (n, 5), uint8. Weights stay in 1..2^32-1 (C70)."""
    clamped = np.clip(values, 1, MAX_WEIGHT)[:, None]
    groups = (clamped >> np.array([0, 7, 14, 21, 28])) & 0x7F
    padded: npt.NDArray[np.uint8] = (groups | np.array([0x80, 0x80, 0x80, 0x80, 0])).astype(np.uint8)
    return padded
