"""From decisions to snapshots: encodes only what changed and hands every node group its view.

Configuration (clusters, listeners, routes) is rebuilt when the policy changes and not before; assignments
when a decision says push. A snapshot that contradicts itself is refused by `snapshot.assemble` and the last
one stays, so that a defect of ours costs a log line and not an outage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuxds.policy.model import Policy
from gpuxds.scoring.contract import PoolDecision
from gpuxds.snapshot.assemble import assemble
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.snapshot.groups import pools_of
from gpuxds.snapshot.model import Resource, ResourceSet, Snapshot
from gpuxds.snapshot.resources import config


@dataclass(slots=True)
class Publisher:
    """Builds snapshots; keeps the encoders, which remember the layout of the last assignment."""

    config: Mapping[str, ResourceSet] = field(default_factory=dict)
    groups: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Node group -> its pools; None: all."""
    encoders: dict[str, AssignmentEncoder] = field(default_factory=dict)
    assignments: dict[str, Resource] = field(default_factory=dict)

    def configure(self, policy: Policy) -> None:
        """Take over a policy: rebuild configuration, forget pools that are gone."""
        self.config = config(policy)
        self.groups = pools_of(policy.node_groups)
        names = {pool.name for pool in policy.pools}
        self.encoders = {name: self.encoders.get(name) or AssignmentEncoder(name) for name in sorted(names)}
        self.assignments = {name: found for name, found in self.assignments.items() if name in names}

    def encode(self, decisions: Mapping[str, PoolDecision]) -> bool:
        """Encode the decisions that push, and those never encoded; True when any bytes changed."""
        changed = False
        for name, decision in decisions.items():
            before = self.assignments.get(name)
            if before is not None and not decision.push:
                continue
            after = self.encoders[name].encode(
                decision.endpoints, decision.weights, decision.envoy_health, decision.in_eds
            )
            self.assignments[name] = after
            changed = changed or before is None or before.version != after.version
        return changed

    def snapshots(self) -> Mapping[str, Snapshot]:
        """One snapshot per node group. Raises SnapshotError when resources contradict each other."""
        return {group: assemble(self.config, self.assignments, pools) for group, pools in self.groups.items()}
