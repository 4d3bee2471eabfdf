"""Discovery responses as bytes. A body is encoded once and serves every stream; only the nonce is its own.

Protobuf lets fields come in any order and messages be concatenated, so the nonce is appended to a shared
body. `Bodies` remembers the last bodies: content follows from what the key names, so it can be dropped at
any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gpuxds.snapshot.model import Resource
from gpuxds.wire import xds_pb2 as pb
from gpuxds.wire.framing import framed

MAX_BODIES = 64


def sotw_body(type_url: str, version: str, resources: Sequence[Resource]) -> bytes:
    """A DiscoveryResponse without its nonce."""
    head = pb.DiscoveryResponse(version_info=version, type_url=type_url).SerializeToString()
    return head + b"".join(framed(2, resource.any_bytes) for resource in resources)


def delta_body(type_url: str, version: str, resources: Sequence[Resource], removed: Sequence[str]) -> bytes:
    """A DeltaDiscoveryResponse without its nonce."""
    head = pb.DeltaDiscoveryResponse(
        system_version_info=version, type_url=type_url, removed_resources=removed
    ).SerializeToString()
    return head + b"".join(framed(2, delta_resource(resource)) for resource in resources)


def delta_resource(resource: Resource) -> bytes:
    """A Resource message around an encoded Any."""
    head = pb.Resource(version=resource.version, name=resource.name).SerializeToString()
    return head + framed(2, resource.any_bytes)


def with_nonce(body: bytes, nonce: str) -> bytes:
    """The whole message; `nonce` is field 5 of both kinds of response."""
    return body + framed(5, nonce.encode())


class Bodies:
    """The last encoded bodies, by what is in them."""

    def __init__(self) -> None:
        self.kept: OrderedDict[object, bytes] = OrderedDict()

    def sotw(self, type_url: str, version: str, resources: Sequence[Resource]) -> bytes:
        """A shared DiscoveryResponse body."""
        key = (type_url, version, tuple((r.name, r.version) for r in resources))
        return self.get(key) or self.keep(key, sotw_body(type_url, version, resources))

    def delta(self, type_url: str, version: str, resources: Sequence[Resource], removed: Sequence[str]) -> bytes:
        """A shared DeltaDiscoveryResponse body."""
        key = (type_url, version, tuple((r.name, r.version) for r in resources), tuple(removed))
        return self.get(key) or self.keep(key, delta_body(type_url, version, resources, removed))

    def get(self, key: object) -> bytes | None:
        """A body that is still here."""
        found = self.kept.get(key)
        if found is not None:
            self.kept.move_to_end(key)
        return found

    def keep(self, key: object, body: bytes) -> bytes:
        """Remember a body, and forget the one not used for longest."""
        self.kept[key] = body
        if len(self.kept) > MAX_BODIES:
            self.kept.popitem(last=False)
        return body
