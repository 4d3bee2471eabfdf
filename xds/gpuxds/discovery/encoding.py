"""Discovery responses as bytes. A response is encoded once, nonce included, and serves every stream.

A nonce must be unique on its stream and may be the same on others, so each encoded response brings one, and a
thousand streams are written the same bytes. Only a stream that gets a response a second time needs a copy with
another nonce. `Bodies` remembers the last responses: content follows from what the key names, so it can be
dropped at any time.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Body:
    """An encoded response that any stream can be written as it is."""

    number: int
    """Larger than that of every body encoded before."""
    nonce: str
    message: bytes = field(repr=False)
    """Ends with the nonce."""

    def renamed(self, nonce: str) -> bytes:
        """The same response under another nonce."""
        return with_nonce(self.message[: -len(with_nonce(b"", self.nonce))], nonce)


class Bodies:
    """The last encoded bodies, by what is in them."""

    def __init__(self, prefix: str = "") -> None:
        self.kept: OrderedDict[object, Body] = OrderedDict()
        self.prefix = prefix
        """Of every nonce: tells the nonces of this process from those of one before it."""
        self.numbers = itertools.count(1)

    def sotw(self, type_url: str, version: str, resources: Sequence[Resource]) -> Body:
        """A shared DiscoveryResponse body."""
        key = (type_url, version, tuple((r.name, r.version) for r in resources))
        return self.get(key) or self.keep(key, sotw_body(type_url, version, resources))

    def delta(self, type_url: str, version: str, resources: Sequence[Resource], removed: Sequence[str]) -> Body:
        """A shared DeltaDiscoveryResponse body."""
        key = (type_url, version, tuple((r.name, r.version) for r in resources), tuple(removed))
        return self.get(key) or self.keep(key, delta_body(type_url, version, resources, removed))

    def get(self, key: object) -> Body | None:
        """A body that is still here."""
        found = self.kept.get(key)
        if found is not None:
            self.kept.move_to_end(key)
        return found

    def keep(self, key: object, content: bytes) -> Body:
        """Number and remember a body, and forget the one not used for longest."""
        number = next(self.numbers)
        nonce = f"{self.prefix}{number}"
        body = self.kept[key] = Body(number, nonce, with_nonce(content, nonce))
        if len(self.kept) > MAX_BODIES:
            self.kept.popitem(last=False)
        return body

    def clear(self) -> None:
        """Forget all: what is in force now is something else."""
        self.kept.clear()
