"""Reservations: made, extended, released, and ended by the clock; kept over restarts.

What changes is only which endpoints are in which cluster and one route per reservation, so a reservation is in
force as soon as the proxies have accepted it, and outlives us in them. Its id is told once, to whoever asked;
everywhere else it goes by its name.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from gpuxds.errors import Conflict, NoCapacity, UnknownPool, UnknownReservation, Unusable
from gpuxds.fleet.endpoint import Endpoint, Fleet
from gpuxds.fleet.reservation import Reservation
from gpuxds.policy.model import PoolSpec
from gpuxds.policy.units import written
from gpuxds.scoring.reserve import Filters, choose

if TYPE_CHECKING:
    from gpuxds.engine.loop import Engine

ID_BYTES = 24
ADAPTER = TypeAdapter(list[Reservation])


@dataclass(slots=True)
class Reservations:
    """The reservations in force, by id."""

    by_id: dict[str, Reservation] = field(default_factory=dict)

    def held(self, fleet: Fleet) -> frozenset[str]:
        """Ids of all reserved endpoints, and of those that are the same server under another name.

        An endpoint that left the pool it was reserved in is free: the reservation is of that pool's.
        """
        ids = {
            endpoint_id
            for found in self.by_id.values()
            for endpoint_id in found.endpoints
            if (endpoint := fleet.by_id.get(endpoint_id)) is not None and endpoint.pool == found.pool
        }
        if not ids:
            return frozenset()
        places = {place(fleet.by_id[endpoint_id]) for endpoint_id in ids}
        return frozenset(ids | {e.id for e in fleet.endpoints if e.ip is not None and place(e) in places})

    def holders(self, fleet: Fleet) -> dict[str, Reservation]:
        """Reserved endpoint -> its reservation."""
        return {
            endpoint_id: found
            for found in self.by_id.values()
            for endpoint_id in found.endpoints
            if endpoint_id in fleet.by_id and fleet.by_id[endpoint_id].pool == found.pool
        }

    def find(self, key: str) -> Reservation:
        """By id or name. Raises UnknownReservation."""
        for found in self.by_id.values():
            if key in (found.id, found.name):
                return found
        names = ", ".join(sorted(found.name for found in self.by_id.values())) or "none"
        raise UnknownReservation(f"no such reservation: it ended, or never was; in force: {names}")

    def dump(self) -> list[dict[str, Any]]:
        """JSON-able."""
        return [asdict(found) for found in self.by_id.values()]

    @classmethod
    def restore(cls, rows: Iterable[Mapping[str, Any]]) -> Reservations:
        """From `dump`."""
        return cls({found.id: found for found in ADAPTER.validate_python(list(rows))})


def reserve(
    engine: Engine, *, pool: str | None, count: int, filters: Filters, ttl_s: float, note: str
) -> tuple[Reservation, tuple[str, ...]]:
    """Set endpoints aside; the reservation, and why it has fewer than `count`, if it has.

    Raises NotReady, UnknownPool, Unusable, or NoCapacity when none can be had.
    """
    engine.require_ready()
    spec = pool_asked(engine, pool)
    check_ttl(spec, ttl_s)
    decision, served = engine.decisions[spec.name], engine.heartbeats.models()
    choice = choose(
        decision, filters, count, spec.reservations.floor, served, engine.reservations.held(engine.fleet)
    )
    if not choice.ids:
        raise NoCapacity("no endpoint can be reserved: " + "; ".join(choice.reasons))
    now = engine.now()
    made = Reservation(secrets.token_urlsafe(ID_BYTES), spec.name, choice.ids, now, now + ttl_s, note)
    engine.reservations.by_id[made.id] = made
    engine.reporter.reservation("reserve", made, now)
    follow(engine)
    return made, choice.reasons if len(choice.ids) < count else ()


def extend(engine: Engine, key: str, ttl_s: float) -> Reservation:
    """Let a reservation end `ttl_s` from now. Raises UnknownReservation or Unusable."""
    found = engine.reservations.find(key)
    spec = next((spec for spec in engine.policy.pools if spec.name == found.pool), None)
    if spec is None:
        raise Conflict(f"the policy has no pool {found.pool!r} any more; release {found.name} and reserve anew")
    check_ttl(spec, ttl_s)
    now = engine.now()
    extended = replace(found, expires_at=now + ttl_s)
    engine.reservations.by_id[found.id] = extended
    engine.reporter.reservation("extend", extended, now)
    engine.save()
    return extended


def release(engine: Engine, key: str) -> Reservation:
    """End a reservation; its endpoints serve everybody again. Raises UnknownReservation."""
    found = engine.reservations.find(key)
    del engine.reservations.by_id[found.id]
    engine.reporter.reservation("release", found, engine.now())
    follow(engine)
    return found


def expire(engine: Engine) -> None:
    """End what has run out."""
    now = engine.now()
    ended = [found for found in engine.reservations.by_id.values() if found.expires_at <= now]
    for found in ended:
        del engine.reservations.by_id[found.id]
        engine.reporter.reservation("expire", found, now)
    if ended:
        engine.follow(engine.policy, engine.fleet, force=True)


def place(endpoint: Endpoint) -> tuple[str, str | None, int]:
    """Pool and address: two endpoints of a pool with one address are one server."""
    return endpoint.pool, endpoint.ip, endpoint.port


def follow(engine: Engine) -> None:
    """Put in force what is reserved now, and remember it."""
    engine.follow(engine.policy, engine.fleet, force=True)
    engine.decide()
    engine.save()


def pool_asked(engine: Engine, name: str | None) -> PoolSpec:
    """The pool of that name, or the only one. Raises UnknownPool or Conflict."""
    pools = {pool.name: pool for pool in engine.policy.pools}
    if name is None and len(pools) > 1:
        raise Conflict(f"there are several pools; say which one: {', '.join(pools)}")
    if name is not None and name not in pools:
        raise UnknownPool(f"no pool {name!r}; pools: {', '.join(pools)}")
    return pools[name] if name is not None else next(iter(pools.values()))


def check_ttl(spec: PoolSpec, ttl_s: float) -> None:
    """Raises Unusable when it is nothing or longer than the policy allows."""
    longest_s = spec.reservations.max_ttl
    if not 0 < ttl_s <= longest_s:
        raise Unusable(
            f"ttl: pool {spec.name} takes reservations of up to {written(longest_s)} (reservations.max_ttl)"
        )
