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
    ASLEEP = 4  # 1 when the engine sleeps and takes no work
    PREEMPTIONS_RATE = 5  # preemptions per second
    PROMPT_TOKENS_RATE = 6  # tokens per second
    OUTPUT_TOKENS_RATE = 7  # tokens per second
    REQUEST_RATE = 8  # requests finished per second
    REQUESTS_TOTAL = 9  # requests finished since the engine started
    TTFT_S = 10  # time to first token, EWMA
    ITL_S = 11  # time between output tokens, EWMA
    QUEUE_S = 12  # time in the engine's queue, EWMA
    LATENCY_S = 13  # end-to-end latency, EWMA
    GPU_UTIL = 14  # 0..1; for people: near constant under load
    SM_CLOCK_RATIO = 15  # SM clock now over the highest clock seen, 0..1, slowest GPU of the endpoint
    TEMPERATURE_C = 16  # hottest GPU
    POWER_W = 17  # sum over GPUs
    THROTTLE_BITS = 18  # NVML clock event reasons, OR over GPUs
    XID_OUT = 19  # code of an XID that takes the GPU out of service, 0 when none since it was last cleared
    XID_DRAIN = 20  # code of an XID that asks for a drain, 0 when none
    ECC_FATAL = 21  # 1 on a double-bit error or a failed row remap
    GPUS_SEEN = 22  # GPUs of this endpoint on the page
    PROXY_ACTIVE = 23  # requests in flight as the proxies count them
    PROXY_ISSUED = 24  # requests the proxies sent since first seen
    PROXY_OK = 25  # of those, answered without error
    PROXY_ERRORS = 26  # of those, failed
    PROXY_ERROR_STREAK = 27  # failures in a row, as far as reports can tell
    ANSWERED = 28  # 1 at the time of the last proof of life (a scrape or a probe that was answered)
    SCRAPE_FAILURES = 29  # scrapes failed in a row
    PROBE_REFUSALS = 30  # probes refused in a row
    PROBE_TIMEOUTS = 31  # probes timed out (or unreachable) in a row


class Source(IntEnum):
    """Who a signal comes from; each has its own cadence and so its own freshness rule."""

    ENGINE = 0
    GPU = 1
    PROXY = 2
    PROBE = 3


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
        absent = self.age_at(signal, row) > self.rules[SOURCES[signal]].absent_after_s
        return float("nan") if absent else float(self.values[signal, row])

    def age_at(self, signal: Signal, row: int) -> float:
        """`age_s` of one endpoint."""
        return float(self.now - self.times[signal, row])

    def freshness(self, signal: Signal) -> NDArray[np.int8]:
        """FRESH, STALE or ABSENT per endpoint."""
        rule = self.rules[SOURCES[signal]]
        age = self.age_s(signal)
        state = np.full(len(self.ids), Freshness.FRESH, dtype=np.int8)
        state[age > rule.stale_after_s] = Freshness.STALE
        state[(age > rule.absent_after_s) | np.isnan(self.values[signal])] = Freshness.ABSENT
        return state

    def take(self, rows: Ints) -> SignalView:
        """The view of some endpoints only."""
        ids = tuple(self.ids[row] for row in rows)
        return SignalView(ids, self.now, self.values[:, rows], self.times[:, rows], self.rules)
