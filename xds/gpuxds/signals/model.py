"""The normal form of every engine's numbers, and the view of them that a decision reads.

Each preset maps its engine's own names onto `Signal`, so that scoring knows no engine. A view is columns:
`values[signal]` and `times[signal]` are arrays over endpoints. NaN means never seen, and never 0: absent is
not idle. Freshness is derived on reading from a signal's age and its source's own cadence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Signal(IntEnum):
    """One column. The comment after each gives its unit."""

    RUNNING = 0  # requests being decoded
    WAITING = 1  # requests queued in the engine
    KV_USAGE = 2  # share of KV cache in use, 0..1
    KV_CAPACITY_TOKENS = 3  # tokens the KV cache holds
    CAPACITY = 4  # requests it can run at once, as it says itself
    ASLEEP = 5  # 1 when the engine sleeps and takes no work
    PREEMPTIONS_RATE = 6  # preemptions per second
    PROMPT_TOKENS_RATE = 7  # tokens per second
    OUTPUT_TOKENS_RATE = 8  # tokens per second
    REQUEST_RATE = 9  # requests finished per second
    REQUESTS_TOTAL = 10  # requests finished since the engine started
    FAILURES_TOTAL = 11  # of those, failed
    TTFT_S = 12  # time to first token, EWMA
    ITL_S = 13  # time between output tokens, EWMA
    QUEUE_S = 14  # time in the engine's queue, EWMA
    LATENCY_S = 15  # end-to-end latency, EWMA
    LAST_LATENCY_S = 16  # end-to-end latency, mean of the requests that finished last
    GPU_UTIL = 17  # 0..1; for people: near constant under load
    SM_CLOCK_RATIO = 18  # SM clock now over the highest clock seen, 0..1, slowest GPU of the endpoint
    TEMPERATURE_C = 19  # hottest GPU
    POWER_W = 20  # sum over GPUs
    THROTTLE_BITS = 21  # NVML clock event reasons, OR over GPUs
    XID_OUT = 22  # code of an XID that takes the GPU out of service, 0 when none since it was last cleared
    XID_DRAIN = 23  # code of an XID that asks for a drain, 0 when none
    ECC_FATAL = 24  # 1 on a double-bit error or a failed row remap
    GPUS_SEEN = 25  # GPUs of this endpoint on the page
    PROXY_ACTIVE = 26  # requests in flight as the proxies count them
    PROXY_ISSUED = 27  # requests the proxies sent since first seen
    PROXY_OK = 28  # of those, answered without error
    PROXY_ERRORS = 29  # of those, failed
    PROXY_ERROR_STREAK = 30  # failures in a row, as far as reports can tell
    PROXY_LATENCY_S = 31  # whole answer as clients see it, EWMA, from access logs
    PROXY_TTFB_S = 32  # time to the first byte as clients see it, EWMA, from access logs
    PROXY_LAST_S = 33  # whole answer of the last request, from access logs
    PROXY_RETRIES = 34  # further tries of requests it answered in the end, since first seen, from access logs
    ANSWERED = 35  # 1 at the time of the last proof of life (a scrape or a probe that was answered)
    SCRAPE_FAILURES = 36  # scrapes failed in a row
    PROBE_REFUSALS = 37  # probes refused in a row
    PROBE_TIMEOUTS = 38  # probes timed out (or unreachable) in a row
    HEARTBEAT = 39  # 1 at the time of the last heartbeat; 0: since then one is expected
    LAST_USED = 40  # 1 at the time of the last report that a request was sent to it


class Source(IntEnum):
    """Who a signal comes from; each has its own cadence and so its own freshness rule."""

    ENGINE = 0
    GPU = 1
    PROXY = 2
    PROBE = 3
    HEARTBEAT = 4
    """In place of the first two for an endpoint that tells its numbers itself."""


SOURCES: Mapping[Signal, Source] = {
    signal: (
        Source.ENGINE
        if signal < Signal.GPU_UTIL
        else Source.GPU
        if signal < Signal.PROXY_ACTIVE
        else Source.PROXY
        if signal < Signal.ANSWERED
        else Source.PROBE
    )
    for signal in Signal
}

TOLD = (Source.ENGINE, Source.GPU)
"""Sources that heartbeats stand in for."""


class Freshness(IntEnum):
    """How far a value may be trusted."""

    ABSENT = 0
    STALE = 1
    FRESH = 2


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """Ages, in seconds, at which a source's values become stale and absent."""

    stale_after_s: float
    absent_after_s: float


@dataclass(frozen=True, slots=True)
class SignalView:
    """Immutable columns for `ids`, in that order. `values` and `times` are (len(Signal), len(ids))."""

    ids: tuple[str, ...]
    now: float
    """Unix seconds at which the view was taken."""
    values: Floats
    """NaN where never seen."""
    times: Floats
    """Unix seconds at which the value was true at its source; -inf where never seen."""
    rules: Mapping[Source, FreshnessRule]

    def value(self, signal: Signal) -> Floats:
        """The last value whatever its age; NaN where never seen or absent by age."""
        return np.where(self.freshness(signal) == Freshness.ABSENT, np.nan, self.values[signal])

    def fresh(self, signal: Signal) -> Floats:
        """The value where it is fresh, NaN elsewhere."""
        return np.where(self.freshness(signal) == Freshness.FRESH, self.values[signal], np.nan)

    def age_s(self, signal: Signal) -> Floats:
        """Seconds since the value was true at its source; inf where never seen."""
        age: Floats = self.now - self.times[signal]
        return age

    def value_at(self, signal: Signal, row: int) -> float:
        """`value` of one endpoint, without looking at the others."""
        told = SOURCES[signal] in TOLD and self.beating_at(row)
        rule = self.rules[Source.HEARTBEAT if told else SOURCES[signal]]
        absent = self.age_at(signal, row) > rule.absent_after_s
        return float("nan") if absent else float(self.values[signal, row])

    def age_at(self, signal: Signal, row: int) -> float:
        """`age_s` of one endpoint."""
        return float(self.now - self.times[signal, row])

    def freshness(self, signal: Signal) -> NDArray[np.int8]:
        """FRESH, STALE or ABSENT per endpoint."""
        age = self.age_s(signal)
        stale_after_s, absent_after_s = self.bounds(SOURCES[signal])
        state = np.full(len(self.ids), Freshness.FRESH, dtype=np.int8)
        state[age > stale_after_s] = Freshness.STALE
        state[(age > absent_after_s) | np.isnan(self.values[signal])] = Freshness.ABSENT
        return state

    def bounds(self, source: Source) -> tuple[Floats | float, Floats | float]:
        """Ages at which values of a source become stale and absent, per endpoint where they differ."""
        rule, beating = self.rules[source], self.beating()
        if source not in TOLD or not beating.any():
            return rule.stale_after_s, rule.absent_after_s
        own = self.rules[Source.HEARTBEAT]
        return (
            np.where(beating, own.stale_after_s, rule.stale_after_s),
            np.where(beating, own.absent_after_s, rule.absent_after_s),
        )

    def beating(self) -> Bools:
        """Endpoints that live by heartbeats: they have sent one, and their page is not being read."""
        told = ~np.isnan(self.values[Signal.HEARTBEAT])
        return np.asarray(told & (self.values[Signal.SCRAPE_FAILURES] != 0), dtype=np.bool_)

    def beating_at(self, row: int) -> bool:
        """`beating` of one endpoint."""
        values = self.values[:, row]
        return bool(not np.isnan(values[Signal.HEARTBEAT]) and values[Signal.SCRAPE_FAILURES] != 0)

    def take(self, rows: Ints) -> SignalView:
        """The view of some endpoints only."""
        ids = tuple(self.ids[row] for row in rows)
        return SignalView(ids, self.now, self.values[:, rows], self.times[:, rows], self.rules)
