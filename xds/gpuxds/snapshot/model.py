"""Resources and snapshots. A resource is bytes with a version; a snapshot is all of them, consistent.

Versions are hashes of content (conformance: two replicas, or one restarted, never give the same version to
different bytes, and give equal bytes the same version).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
"""Numbers that Envoy reads each time it needs them; only guards are told any."""

PUSH_ORDER = (RUNTIME, CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""Make before break: what is referred to comes before what refers to it, and limits before what they limit."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One named resource, encoded once for every stream."""

    name: str
    version: str
    any_bytes: bytes = field(repr=False)
    """A serialised google.protobuf.Any: type_url and value."""
    on_request_only: bool = False
    """Sent to clients that ask for it by name, never as part of a wildcard (proxyless gRPC's listeners)."""
    refers_to: tuple[tuple[str, str], ...] = ()
    """(type URL, name) of the resources it needs; `assemble` refuses a snapshot in which one is missing."""


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """All resources of one type, and a version of the whole."""

    version: str
    resources: Mapping[str, Resource]


EMPTY = ResourceSet("", {})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one group of proxies is told."""

    sets: Mapping[str, ResourceSet]
    """By type URL."""

    def of(self, type_url: str) -> ResourceSet:
        """The resources of a type; empty for a type nobody builds."""
        return self.sets.get(type_url, EMPTY)
