"""Versions are hashes of content, and an Any is written by hand around bytes that are already encoded.

Conformance C27: two replicas, or one restarted, never give one version to different bytes, and give equal
bytes one version, so a proxy may move between replicas and see no change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any

from gpuxds.snapshot.model import Resource, ResourceSet


def version_of(content: bytes) -> str:
    """64 bits of BLAKE2b in hex: a collision between a resource's successive contents is out of reach."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def resource(
    name: str,
    type_url: str,
    value: bytes,
    *,
    on_request_only: bool = False,
    refers_to: tuple[tuple[str, str], ...] = (),
) -> Resource:
    """A resource around its encoded message."""
    any_bytes = Any(type_url=type_url, value=value).SerializeToString(deterministic=True)
    return Resource(name, version_of(any_bytes), any_bytes, on_request_only, refers_to)


def resource_set(resources: Iterable[Resource]) -> ResourceSet:
    """The set, in order of name, with a version of the whole."""
    by_name: Mapping[str, Resource] = {found.name: found for found in sorted(resources, key=lambda r: r.name)}
    listing = "\n".join(f"{name}={found.version}" for name, found in by_name.items())
    return ResourceSet(version_of(listing.encode()), by_name)
