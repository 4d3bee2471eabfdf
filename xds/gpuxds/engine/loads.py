"""Load reports and access logs become signals of the endpoints they are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from gpuxds.discovery.access_logs import Served
from gpuxds.discovery.loads import EndpointLoad, Key
from gpuxds.fleet.endpoint import Fleet
from gpuxds.signals.ewma import Ewma, observe
from gpuxds.signals.model import Signal
from gpuxds.signals.store import Store


def addresses(fleet: Fleet) -> dict[Key, str]:
    """Pool and address -> endpoint id; made when the fleet changes, looked up for every report."""
    return {(e.pool, (e.ip, e.proxied_port)): e.id for e in fleet.endpoints if e.ip is not None}


def record_loads(
    store: Store,
    by_address: Mapping[Key, str],
    guarded: Container[str],
    loads: Sequence[EndpointLoad],
    now: float,
) -> None:
    """Record what proxies count; `guarded` are the pools with guards.

    A streak of failures is recorded only when a report has news of the endpoint: repeating an old streak
    would condemn an endpoint that is being tried again and has not been sent anything yet. A proxy counts a guard's
    refusal as a failure when it tries elsewhere; a full endpoint is not a failed one, so there only failures of one
    that runs nothing count.
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
            streak = load.dead_streak if load.pool in guarded else load.error_streak
            values[Signal.PROXY_ERROR_STREAK] = float(streak)
        if load.used:
            values[Signal.LAST_USED] = 1.0
        store.record(endpoint_id, values, now)


@dataclass(slots=True)
class Timings:
    """Averages of what access logs say, by endpoint."""

    latency_s: dict[str, Ewma] = field(default_factory=dict)
    ttfb_s: dict[str, Ewma] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)

    def take(
        self, store: Store, by_address: Mapping[Key, str], served: Mapping[Key, Served], tau_s: float, now: float
    ) -> None:
        """Record one batch of access logs."""
        for key, found in served.items():
            endpoint_id = by_address.get(key)
            if endpoint_id is None:
                continue
            self.retries[endpoint_id] += found.retries
            values = {Signal.PROXY_RETRIES: float(self.retries[endpoint_id])}
            if found.count:
                for signal, averages, total_s in (
                    (Signal.PROXY_LATENCY_S, self.latency_s, found.latency_s),
                    (Signal.PROXY_TTFB_S, self.ttfb_s, found.ttfb_s),
                ):
                    average = observe(averages.get(endpoint_id), total_s / found.count, now, tau_s, peak=True)
                    if average is not None:
                        averages[endpoint_id] = average
                        values[signal] = average.value
                values[Signal.PROXY_LAST_S] = found.last_s
            store.record(endpoint_id, values, now)

    def forget(self, present: Container[str]) -> None:
        """Drop endpoints that left."""
        for averages in (self.latency_s, self.ttfb_s, self.retries):
            for endpoint_id in [name for name in averages if name not in present]:
                del averages[endpoint_id]
