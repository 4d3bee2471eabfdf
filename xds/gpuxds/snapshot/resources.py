"""From policy to configuration: the clusters, listeners and routes one node group is told.

Built when a policy changes, with typed messages; what changes every second is in `snapshot.endpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpuxds.policy.model import Policy
from gpuxds.policy.slices import Slice
from gpuxds.snapshot.clusters import cluster
from gpuxds.snapshot.listeners import grpc_listener, grpc_routes, listener, routes
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, ResourceSet
from gpuxds.snapshot.versions import resource_set


def config(
    policy: Policy, pools: frozenset[str] | None, capacities: Mapping[str, float], slices: Sequence[Slice] = ()
) -> Mapping[str, ResourceSet]:
    """Clusters, listeners and routes by type URL.

    `pools` limits what the group sees (None: all). `capacities` maps a cluster to the requests its endpoints run
    at once, all together; one that is missing counts as 0. `slices` are those of all pools.
    """
    seen = [pool for pool in policy.pools if pools is None or pool.name in pools]
    parts = {pool.name: [part for part in slices if part.pool == pool.name] for pool in seen}
    named = [(pool, name) for pool in seen for name in (pool.name, *(part.cluster for part in parts[pool.name]))]
    return {
        CLUSTER: resource_set(cluster(pool, name, capacities.get(name, 0.0)) for pool, name in named),
        LISTENER: resource_set([listener(policy), *map(grpc_listener, seen)]),
        ROUTES: resource_set([routes(policy, seen, parts), *map(grpc_routes, seen)]),
    }
