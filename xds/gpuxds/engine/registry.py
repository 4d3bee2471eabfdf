"""Endpoints registered over the API: kept over restarts, and drained before they go.

They are described as a policy describes its own, so that nothing has to be learnt twice. What the policy or a file
declares can only be changed there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuxds.errors import Conflict, UnknownEndpoint, UnknownPool, Unusable
from gpuxds.fleet.endpoint import Endpoint, Fleet
from gpuxds.policy.build import endpoint_of
from gpuxds.policy.checks import findings
from gpuxds.policy.model import EndpointSpec, Policy
from gpuxds.policy.positions import dotted

SOURCE = "api"


@dataclass(slots=True)
class Registry:
    """What was registered, and what of it is leaving."""

    specs: dict[str, tuple[str, EndpointSpec]] = field(default_factory=dict)
    """Id -> pool and description."""
    leaving: set[str] = field(default_factory=set)
    """Ids that go as soon as they are drained."""
    made: tuple[Policy | None, Mapping[str, Any], tuple[Endpoint, ...]] = (None, {}, ())
    """The last endpoints, and the policy and descriptions they were made of."""

    def endpoints(self, policy: Policy) -> tuple[Endpoint, ...]:
        """The registered endpoints that the policy has a pool for and can make something of; others wait."""
        if self.made[0] is not policy or self.made[1] != self.specs:
            self.made = (policy, dict(self.specs), self.make(policy))
        return self.made[2]

    def make(self, policy: Policy) -> tuple[Endpoint, ...]:
        """The same, made anew."""
        found = []
        for pool, spec in self.specs.values():
            with contextlib.suppress(UnknownPool, Unusable):
                found.append(described(policy, pool, spec))
        return tuple(found)

    def register(self, policy: Policy, fleet: Fleet, pool: str, spec: EndpointSpec) -> None:
        """Take an endpoint in. Raises UnknownPool, Unusable, or Conflict when id or address is taken."""
        if spec.id in fleet.by_id or spec.id in self.specs:
            raise Conflict(f"there is an endpoint {spec.id!r} already; change it with PUT, or choose another id")
        self.take(policy, fleet, pool, spec)

    def change(self, policy: Policy, fleet: Fleet, endpoint_id: str, pool: str, spec: EndpointSpec) -> None:
        """Describe a registered endpoint anew. Raises like `register`, and Conflict when it is not registered."""
        self.require(fleet, endpoint_id)
        if spec.id != endpoint_id:
            raise Conflict(f"the id in the body is {spec.id!r}, the one in the path {endpoint_id!r}; an id stays")
        self.take(policy, fleet, pool, spec)

    def take(self, policy: Policy, fleet: Fleet, pool: str, spec: EndpointSpec) -> None:
        """Check and keep."""
        made = described(policy, pool, spec)
        for other in fleet.pool(pool):
            if (other.host, other.port) == (made.host, made.port) and other.id != spec.id:
                raise Conflict(f"{spec.address} is the address of {other.id} in pool {pool} already")
        self.specs[spec.id] = (pool, spec)
        self.leaving.discard(spec.id)

    def owns(self, fleet: Fleet, endpoint_id: str) -> bool:
        """Whether the endpoint of that id is the registered one, and not one that another source declares."""
        other = fleet.by_id.get(endpoint_id)
        return endpoint_id in self.specs and (other is None or other.source == SOURCE)

    def require(self, fleet: Fleet, endpoint_id: str) -> None:
        """Raises UnknownEndpoint, or Conflict for an endpoint that is declared elsewhere."""
        if self.owns(fleet, endpoint_id):
            return
        other = fleet.by_id.get(endpoint_id)
        if other is None:
            known = ", ".join(sorted({*fleet.by_id, *self.specs})[:20])
            raise UnknownEndpoint(f"no endpoint {endpoint_id!r}; known: {known}")
        raise Conflict(f"{endpoint_id} is declared in {other.source}, not registered; change it there")

    def forget(self, endpoint_ids: Iterable[str]) -> None:
        """They are gone."""
        for endpoint_id in endpoint_ids:
            self.specs.pop(endpoint_id, None)
            self.leaving.discard(endpoint_id)

    def dump(self) -> dict[str, Any]:
        """JSON-able."""
        rows = [
            {"pool": pool, "endpoint": spec.model_dump(mode="json"), "leaving": spec.id in self.leaving}
            for pool, spec in self.specs.values()
        ]
        return {"endpoints": rows}

    @classmethod
    def restore(cls, document: Mapping[str, Any]) -> Registry:
        """From `dump`. Raises pydantic's ValidationError or KeyError when it is something else."""
        rows = document.get("endpoints", [])
        specs = {row["endpoint"]["id"]: (row["pool"], EndpointSpec.model_validate(row["endpoint"])) for row in rows}
        return cls(specs, {row["endpoint"]["id"] for row in rows if row["leaving"]})


def described(policy: Policy, pool_name: str, spec: EndpointSpec) -> Endpoint:
    """The endpoint a description means. Raises UnknownPool, or Unusable with what `gpuxds check` would say."""
    pool = next((pool for pool in policy.pools if pool.name == pool_name), None)
    if pool is None:
        raise UnknownPool(f"no pool {pool_name!r}; pools: {', '.join(p.name for p in policy.pools)}")
    alone = policy.model_copy(update={"pools": [pool.model_copy(update={"endpoints": [spec], "file_sd": None})]})
    for finding in findings(alone):
        if finding.severity == "error" and finding.path[:3] == ("pools", 0, "endpoints"):
            raise Unusable(f"{dotted(finding.path[4:])}: {finding.message}")
    return endpoint_of(
        pool, spec.id, spec.address, spec.gpu, spec.capacity, spec.metrics, spec.labels, spec.price_per_hour,
        SOURCE, policy.gpu_models,
    )  # fmt: skip
