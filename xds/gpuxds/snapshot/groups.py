"""Which pools a proxy sees. By default all; a policy's `node_groups` select by node.cluster and metadata.

The first group whose conditions all hold wins. A group sees its pools' clusters and routes only, so that a
proxy of one team is not told about another's servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpuxds.policy.model import NodeGroupSpec

ALL = "all"
"""Name of the group of proxies that match no other."""
GUARD_PREFIX = "guard:"
"""What the groups of guards begin with; an endpoint's id follows. Other groups cannot have such names."""


def group_of(groups: Sequence[NodeGroupSpec], cluster: str, metadata: Mapping[str, str]) -> str:
    """The group of a proxy with this node.cluster and these metadata entries. A guard is a group of its own."""
    if metadata.get("role") == "guard":
        return GUARD_PREFIX + metadata.get("endpoint", "")
    for group in groups:
        right_cluster = group.cluster is None or group.cluster == cluster
        if right_cluster and all(metadata.get(key) == value for key, value in group.metadata.items()):
            return group.name
    return ALL


def pools_of(groups: Sequence[NodeGroupSpec]) -> Mapping[str, frozenset[str] | None]:
    """Group -> names of its pools; None: all of them."""
    return {ALL: None, **{group.name: frozenset(group.pools) for group in groups}}
