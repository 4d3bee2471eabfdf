"""What guards are told, made when the first guard of an endpoint asks: most fleets have none, some have thousands.

A guard's snapshot depends on its endpoint and the policy, and on nothing that changes from second to second. It is
made anew when the policy or the fleet changes; one that says the same stays the same object, so that no stream is
woken for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuxds.discovery.events import NodeInfo
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.model import Policy
from gpuxds.snapshot.groups import GUARD_PREFIX, group_of
from gpuxds.snapshot.guards import NOTHING, snapshot_of_guard
from gpuxds.snapshot.model import Snapshot

if TYPE_CHECKING:
    from gpuxds.engine.loop import Engine


@dataclass(slots=True)
class GuardBook:
    """Snapshots of the guards that were asked for, under one policy and one fleet."""

    policy: Policy | None = None
    fleet: Fleet = field(default_factory=Fleet)
    before: Mapping[str, Snapshot] = field(default_factory=dict)
    """Endpoint id -> what its guard was told under the policy and fleet before."""
    made: dict[str, Snapshot] = field(default_factory=dict)

    def of(self, endpoint_id: str) -> Snapshot:
        """What the guard of an endpoint is told; nothing when there is no such endpoint, or it needs no guard."""
        if endpoint_id not in self.made:
            self.made[endpoint_id] = self.make(endpoint_id)
        return self.made[endpoint_id]

    def make(self, endpoint_id: str) -> Snapshot:
        """The snapshot, as the object it was before when it says the same."""
        endpoint = self.fleet.by_id.get(endpoint_id)
        if endpoint is None or self.policy is None:
            return NOTHING
        pool = next(pool for pool in self.policy.pools if pool.name == endpoint.pool)
        snapshot = snapshot_of_guard(self.policy, pool, endpoint, len(self.fleet.pool(pool.name)))
        before = self.before.get(endpoint_id)
        return before if before is not None and before.sets == snapshot.sets else snapshot


@dataclass(frozen=True, slots=True)
class Snapshots(Mapping[str, Snapshot]):
    """Snapshots by group. Iterating names groups of proxies only: guards balance nothing and report no loads."""

    proxies: Mapping[str, Snapshot]
    guards: GuardBook

    def __getitem__(self, group: str) -> Snapshot:
        if group.startswith(GUARD_PREFIX):
            return self.guards.of(group.removeprefix(GUARD_PREFIX))
        return self.proxies[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.proxies)

    def __len__(self) -> int:
        return len(self.proxies)


def group(engine: Engine, node: NodeInfo) -> str:
    """The group of a connected Envoy; that of a guard without an endpoint to guard says so, for people."""
    name = group_of(engine.policy.node_groups, node.cluster, node.metadata)
    if not name.startswith(GUARD_PREFIX):
        return name
    endpoint = engine.fleet.by_id.get(name.removeprefix(GUARD_PREFIX))
    if endpoint is None:
        return f"{name} (no such endpoint)"
    return name if endpoint.guard_port is not None else f"{name} (its pool has no guards)"


def described(engine: Engine) -> dict[str, dict[str, Any]]:
    """Endpoint id -> its limits and the guards that are connected, for the endpoints that have guards."""
    specs = {pool.name: pool.guard for pool in engine.policy.pools if pool.guard is not None}
    connected = engine.server.groups() if specs else {}
    return {
        endpoint.id: {
            "port": endpoint.guard_port,
            "capacity": endpoint.capacity,
            "max_waiting": spec.queue.max_waiting if spec.queue else 0,
            "wait_s": spec.queue.timeout if spec.queue else 0.0,
            "connected": connected.get(GUARD_PREFIX + endpoint.id, 0),
        }
        for endpoint in engine.fleet.endpoints
        if (spec := specs.get(endpoint.pool)) is not None
    }
