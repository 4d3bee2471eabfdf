"""Some endpoints of a pool under an Envoy cluster of their own, beside the one that all its requests share.

A weight cannot say that a request may run on some endpoints only; a cluster can. Each slice has members, and its
weights are decided for it; health is decided once, for the pool. An endpoint may be in the shared cluster and in
the slice for large requests at once, but one that is reserved is in its reservation's slice and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.fleet.reservation import Reservation
from gpuxds.policy.model import PoolSpec

SEPARATOR = "/"
"""Between a pool's name and its slice's; pools cannot have it in their names."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Members of a pool, and their cluster."""

    cluster: str
    pool: str
    ids: tuple[str, ...]
    """Members, in the order of the pool's endpoints."""
    reservation: Reservation | None = None
    """Set when the members serve that reservation only; None: the slice of large requests."""
    least_prompt_tokens: float = 0.0
    """Every request it serves has at least this many."""


def pool_of(cluster: str) -> str:
    """The pool that a cluster is of."""
    return cluster.partition(SEPARATOR)[0]


def large_of(pool: str) -> str:
    """The cluster of a pool's large requests."""
    return f"{pool}{SEPARATOR}large"


def reserved_of(reservation: Reservation) -> str:
    """The cluster of a reservation."""
    return f"{reservation.pool}{SEPARATOR}{reservation.name}"


def slices_of(
    pool: PoolSpec, endpoints: Sequence[Endpoint], reservations: Iterable[Reservation]
) -> tuple[Slice, ...]:
    """The slices of a pool with these endpoints. A reservation whose endpoints all left keeps its empty cluster:
    its requests are answered with 503 until it ends, and never by endpoints it does not hold."""
    ours, found = [one for one in reservations if one.pool == pool.name], []
    held_anywhere = {endpoint_id for reservation in ours for endpoint_id in reservation.endpoints}
    if pool.large_requests is not None:
        least_gb, over_tokens = pool.large_requests.min_memory_gb, pool.large_requests.over_tokens
        able = (e.id for e in endpoints if e.gpu.memory_gb * e.gpu.count >= least_gb and e.id not in held_anywhere)
        found.append(Slice(large_of(pool.name), pool.name, tuple(able), least_prompt_tokens=float(over_tokens)))
    for reservation in ours:
        held = frozenset(reservation.endpoints)
        ids = tuple(endpoint.id for endpoint in endpoints if endpoint.id in held)
        found.append(Slice(reserved_of(reservation), pool.name, ids, reservation))
    return tuple(found)
