"""Configuration and assignments become one consistent snapshot, or none.

A snapshot in which something refers to what is not there would take traffic away: Envoy answers a route to
an unknown cluster with 503, and waits for an assignment that never comes. Such a snapshot is refused as a
whole; the last one stays in force.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpuxds.errors import SnapshotError
from gpuxds.snapshot.model import CLUSTER, EMPTY, ENDPOINTS, Resource, ResourceSet, Snapshot
from gpuxds.snapshot.versions import resource_set


def assemble(config: Mapping[str, ResourceSet], assignments: Mapping[str, Resource]) -> Snapshot:
    """A snapshot of `config` and the assignments of its clusters. Raises SnapshotError naming what is missing."""
    clusters = config.get(CLUSTER, EMPTY).resources
    present = resource_set(assignments[name] for name in clusters if name in assignments)
    snapshot = Snapshot({**config, ENDPOINTS: present})
    missing = [f"cluster {name} has no assignment" for name in clusters if name not in present.resources]
    for found in snapshot.sets.values():
        for source in found.resources.values():
            for type_url, name in source.refers_to:
                if name not in snapshot.of(type_url).resources:
                    missing.append(f"{source.name} refers to {type_url.rpartition('.')[2]} {name}, which is absent")
    if missing:
        raise SnapshotError("; ".join(missing))
    return snapshot


def with_retired(snapshot: Snapshot, before: Snapshot) -> Snapshot:
    """`snapshot`, and the clusters and assignments of `before` that it no longer has.

    Make before break (C51): a proxy learns its new routes first, and loses the old clusters when none of its
    routes can still lead there.
    """
    merged = {
        type_url: resource_set({**before.of(type_url).resources, **snapshot.of(type_url).resources}.values())
        for type_url in (CLUSTER, ENDPOINTS)
    }
    return Snapshot({**snapshot.sets, **merged})
