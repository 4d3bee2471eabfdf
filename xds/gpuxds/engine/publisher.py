"""From decisions to snapshots: encodes only what changed and hands every node group its view.

Configuration (clusters, listeners, routes) is rebuilt when the policy changes and not before; assignments
when a decision says push. A snapshot that contradicts itself is refused by `snapshot.assemble` and the last
one stays, so that a defect of ours costs a log line and not an outage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuxds.engine.guards import GuardBook, Snapshots
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.model import Policy
from gpuxds.policy.slices import Slice
from gpuxds.scoring.contract import PoolDecision
from gpuxds.snapshot.assemble import assemble, with_retired
from gpuxds.snapshot.capacity import room
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.snapshot.groups import pools_of
from gpuxds.snapshot.model import Resource, ResourceSet, Snapshot
from gpuxds.snapshot.resources import config

RETIRE_AFTER_S = 2.0
"""A cluster that no route needs any more is withdrawn this much later than its routes."""


@dataclass(slots=True)
class Publisher:
    """Builds snapshots; keeps the encoders, which remember the layout of the last assignment."""

    config: dict[str, Mapping[str, ResourceSet]] = field(default_factory=dict)
    """Node group -> clusters, listeners and routes."""
    encoders: dict[str, AssignmentEncoder] = field(default_factory=dict)
    assignments: dict[str, Resource] = field(default_factory=dict)
    last: dict[str, Snapshot] = field(default_factory=dict)
    """Node group -> what was assembled last, clusters that retire included."""
    retire_at: float = 0.0
    guards: GuardBook = field(default_factory=GuardBook)

    def configure(self, policy: Policy, fleet: Fleet, slices: Sequence[Slice], now: float) -> None:
        """Take over a policy and what its fleet can run; clusters that are gone retire a little later."""
        rooms = {e.id: float(room(e, pool)) for pool in policy.pools for e in fleet.pool(pool.name)}
        capacities = {pool.name: sum(rooms[e.id] for e in fleet.pool(pool.name)) for pool in policy.pools}
        capacities |= {part.cluster: sum(rooms[i] for i in part.ids) for part in slices}
        names = capacities.keys()
        self.guards = GuardBook(policy, fleet, self.guards.made)
        self.config = {
            group: config(policy, pools, capacities, slices)
            for group, pools in pools_of(policy.node_groups).items()
        }
        if self.encoders.keys() - names:
            self.retire_at = now + RETIRE_AFTER_S
        self.encoders = {name: self.encoders.get(name) or AssignmentEncoder(name) for name in sorted(names)}
        self.assignments = {name: found for name, found in self.assignments.items() if name in names}

    def encode(self, decisions: Iterable[PoolDecision]) -> None:
        """Encode the decisions that push, whose addresses changed, or that were never encoded."""
        for decision in decisions:
            name = decision.cluster
            encoder = self.encoders[name]
            moved = encoder.stale(decision.endpoints, decision.in_eds)
            if decision.push or moved or name not in self.assignments:
                self.assignments[name] = encoder.encode(
                    decision.endpoints, decision.weights, decision.envoy_health, decision.in_eds
                )

    def snapshots(self, now: float) -> Mapping[str, Snapshot]:
        """One snapshot per node group and guard. Raises SnapshotError when resources contradict each other."""
        made = {group: assemble(configured, self.assignments) for group, configured in self.config.items()}
        if now < self.retire_at:
            made = {
                group: with_retired(snapshot, self.last[group]) if group in self.last else snapshot
                for group, snapshot in made.items()
            }
        self.last = {group: self.unchanged(group, snapshot) or snapshot for group, snapshot in made.items()}
        return Snapshots(self.last, self.guards)

    def unchanged(self, group: str, snapshot: Snapshot) -> Snapshot | None:
        """The last snapshot of a group when it says the same, so that no stream is woken for it."""
        before = self.last.get(group)
        if before is None or versions(before) != versions(snapshot):
            return None
        return before


def versions(snapshot: Snapshot) -> dict[str, str]:
    """Type -> version."""
    return {type_url: found.version for type_url, found in snapshot.sets.items()}
