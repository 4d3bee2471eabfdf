"""From policy to configuration: the clusters, listeners and routes one node group is told.

Built when a policy changes, with typed messages; what changes every second is in `snapshot.endpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpuxds.policy.model import Policy
from gpuxds.snapshot.clusters import cluster
from gpuxds.snapshot.listeners import grpc_listener, grpc_routes, listener, routes
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, ResourceSet
from gpuxds.snapshot.versions import resource_set


def config(
    policy: Policy, pools: frozenset[str] | None, capacities: Mapping[str, float]
) -> Mapping[str, ResourceSet]:
    """Clusters, listeners and routes by type URL.

    `pools` limits what the group sees (None: all). `capacities` maps a pool to the requests its endpoints run
    at once, all together; a pool that is missing counts as 0.
    """
    seen = [pool for pool in policy.pools if pools is None or pool.name in pools]
    return {
        CLUSTER: resource_set(cluster(pool, capacities.get(pool.name, 0.0)) for pool in seen),
        LISTENER: resource_set([listener(policy), *map(grpc_listener, seen)]),
        ROUTES: resource_set([routes(seen), *map(grpc_routes, seen)]),
    }
