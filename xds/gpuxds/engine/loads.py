"""Load reports become signals of the endpoints they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpuxds.discovery.loads import EndpointLoad, Key
from gpuxds.fleet.endpoint import Fleet
from gpuxds.signals.model import Signal
from gpuxds.signals.store import Store


def addresses(fleet: Fleet) -> dict[Key, str]:
    """Pool and address -> endpoint id; made when the fleet changes, looked up for every report."""
    return {(e.pool, (e.ip, e.port)): e.id for e in fleet.endpoints if e.ip is not None}


def record_loads(store: Store, by_address: Mapping[Key, str], loads: Sequence[EndpointLoad], now: float) -> None:
    """Record what proxies count.

    A streak of failures is recorded only when a report has news of the endpoint: repeating an old streak
    would condemn an endpoint that is being tried again and has not been sent anything yet.
    """
    for load in loads:
        endpoint_id = by_address.get((load.pool, load.address))
        if endpoint_id is None:
            continue
        values = {
            Signal.PROXY_ACTIVE: float(load.active),
            Signal.PROXY_ISSUED: float(load.issued),
            Signal.PROXY_OK: float(load.ok),
            Signal.PROXY_ERRORS: float(load.errors),
        }
        if load.news:
            values[Signal.PROXY_ERROR_STREAK] = float(load.error_streak)
        if load.used:
            values[Signal.LAST_USED] = 1.0
        store.record(endpoint_id, values, now)
