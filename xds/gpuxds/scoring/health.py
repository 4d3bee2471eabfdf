"""Where each endpoint is in its life, and what Envoy is told of it.

    warming ──► serving ◄──► suspect          draining ──► drained (leaves EDS)
                  │  ▲                            ▲
                  ▼  │ answered again, ramped     │ operator, or an XID that asks for it
                failed / quarantined ─────────────┘ (stays UNHEALTHY: Envoy does not re-evaluate
                                                     UNHEALTHY → DRAINING)

Facts and judgement are kept apart. A refused connection is a fact: nobody listens, and half a fleet may go within
seconds. Timeouts, error streaks and hardware reports are judgement: at most `max_ejected_percent` of a pool is
taken out by it, and never the last endpoint that serves; so are heartbeats that stop. Silent metrics are neither:
an endpoint whose port answers stays, and one that was never heard is only kept out while others of its pool were
heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.scoring.contract import Drain, EnvoyHealth, Health, PoolMemory
from gpuxds.scoring.facts import PoolFacts
from gpuxds.signals.model import SOURCES, Bools, Floats, Ints, Signal, SignalView


class Cause(IntEnum):
    """Why an endpoint is not plainly serving. Judgements are ordered by how sure they are, surest last."""

    NONE = 0
    NOT_HEARD = 1
    SILENT = 2
    KEPT = 3
    """Judged unfit, but the pool cannot spare it."""
    DRAIN = 4
    REFUSED = 5
    ASLEEP = 6
    LOST = 7
    TIMEOUTS = 8
    ERRORS = 9
    XID_DRAIN = 10
    GPU_MISSING = 11
    HARDWARE = 12


JUDGEMENTS = (Cause.LOST, Cause.TIMEOUTS, Cause.ERRORS, Cause.XID_DRAIN, Cause.GPU_MISSING, Cause.HARDWARE)
OUT = (Health.FAILED, Health.QUARANTINED)
LEAVING = (Health.DRAINING, Health.DRAINED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The new state of a pool's endpoints."""

    health: Ints
    since: Floats
    ramp_from: Floats
    cause: Ints
    envoy_health: Ints
    in_eds: Bools
    alarms: tuple[str, ...]

    @property
    def usable(self) -> Bools:
        """Endpoints that may take new requests."""
        return np.asarray((self.envoy_health == EnvoyHealth.HEALTHY) & self.in_eds, dtype=np.bool_)


def assess(
    policy: Policy,
    pool: PoolSpec,
    facts: PoolFacts,
    view: SignalView,
    memory: PoolMemory,
    drains: Mapping[str, Drain],
    *,
    frozen: bool,
    now: float,
) -> Verdict:
    """Advance every endpoint's life by one decision. `memory` is aligned to `facts.ids`."""
    asked = np.array([endpoint_id in drains for endpoint_id in facts.ids], dtype=np.bool_)
    cause = judged(policy, facts, view, memory, frozen=frozen, now=now)
    cause, alarms = capped(policy, facts, memory, cause, asked, frozen=frozen)
    draining = asked | (cause == Cause.XID_DRAIN)
    started, deadline = drain_times(pool, facts, memory, drains, draining, now)
    health = next_health(view, memory, cause, draining)
    gone = drained(view, memory, cause, started, deadline, now) & draining
    health = np.where(gone, Health.DRAINED, health)
    cause = np.where(asked, Cause.DRAIN, cause)
    changed = health != memory.health
    since = np.where(changed, now, memory.health_since)
    ramp_from = ramps(health, memory, now)
    return Verdict(
        health=health.astype(np.int64),
        since=since,
        ramp_from=ramp_from,
        cause=cause.astype(np.int64),
        envoy_health=for_envoy(health, memory),
        in_eds=facts.has_address & (health != Health.DRAINED),
        alarms=alarms,
    )


def judged(
    policy: Policy,
    facts: PoolFacts,
    view: SignalView,
    memory: PoolMemory,
    *,
    frozen: bool,
    now: float,
) -> Ints:
    """What speaks against each endpoint now; later rules overrule earlier ones."""
    spec = policy.health
    values, times = view.values, view.times
    cause = np.full(len(facts.ids), Cause.NONE, dtype=np.int64)
    answered = np.isfinite(times[Signal.ANSWERED])
    if answered.any() or (values[Signal.PROBE_REFUSALS] >= 1).any():
        cause[~answered & (memory.health == Health.WARMING)] = Cause.NOT_HEARD
    failing = (values[Signal.SCRAPE_FAILURES] >= 1) & (times[Signal.SCRAPE_FAILURES] > times[Signal.ANSWERED])
    cause[failing & (memory.health != Health.WARMING)] = Cause.SILENT
    late = view.beating() & (view.age_s(Signal.HEARTBEAT) > policy.signals.heartbeat.lost_after)
    cause[late & (memory.health != Health.WARMING)] = Cause.NONE if frozen else Cause.LOST
    cause[still_lost(view, memory)] = Cause.LOST
    cause[(values[Signal.PROBE_TIMEOUTS] >= spec.timeouts_to_fail) & (memory.health != Health.WARMING)] = (
        Cause.NONE if frozen else Cause.TIMEOUTS
    )
    cause[error_streaks(spec.error_streak_to_fail, spec.retry_after, view, memory, now)] = Cause.ERRORS
    cause[asks_for_drain(view, memory)] = Cause.XID_DRAIN
    gpus = view.fresh(Signal.GPUS_SEEN)
    cause[gpus < facts.gpu_count] = Cause.GPU_MISSING
    cause[(view.value(Signal.XID_OUT) > 0) | (view.value(Signal.ECC_FATAL) > 0)] = Cause.HARDWARE
    cause[view.fresh(Signal.ASLEEP) > 0] = Cause.ASLEEP
    cause[values[Signal.PROBE_REFUSALS] >= 1] = Cause.REFUSED
    return cause


def still_lost(view: SignalView, memory: PoolMemory) -> Bools:
    """Endpoints that were taken out since their heartbeats stopped, and have not sent one since: a restart of ours
    or a frozen pool is no reason to take them back."""
    before = memory.columns.get("cause", np.full(len(view.ids), np.nan)) == Cause.LOST
    beat = (view.values[Signal.HEARTBEAT] == 1) & (view.times[Signal.HEARTBEAT] > memory.health_since)
    return np.asarray(before & (memory.health == Health.FAILED) & ~beat, dtype=np.bool_)


def asks_for_drain(view: SignalView, memory: PoolMemory) -> Bools:
    """Endpoints whose GPU asks for a drain; one that did before still does while nobody can tell."""
    code = view.value(Signal.XID_DRAIN)
    before = memory.columns.get("cause", np.full(len(view.ids), np.nan)) == Cause.XID_DRAIN
    return np.asarray((code > 0) | (np.isnan(code) & before), dtype=np.bool_)


def error_streaks(needed: int, retry_after_s: float, view: SignalView, memory: PoolMemory, now: float) -> Bools:
    """Endpoints whose requests fail in a row; those taken out for it are tried again after a while."""
    if needed == 0:
        return np.zeros(len(view.ids), dtype=np.bool_)
    before = memory.columns.get("cause", np.full(len(view.ids), np.nan))
    out_for_errors = (before == Cause.ERRORS) & (memory.health == Health.FAILED)
    serving_since = np.maximum(memory.health_since, memory.ramp_from)
    streak = view.fresh(Signal.PROXY_ERROR_STREAK) >= needed
    new = streak & (view.times[Signal.PROXY_ERROR_STREAK] > serving_since)
    return np.asarray(np.where(out_for_errors, now - memory.health_since < retry_after_s, new), dtype=np.bool_)


def capped(
    policy: Policy, facts: PoolFacts, memory: PoolMemory, cause: Ints, asked: Bools, *, frozen: bool
) -> tuple[Ints, tuple[str, ...]]:
    """Judgement within its bounds: at most a share of the pool, and never the last that serves."""
    alarms: list[str] = []
    if frozen:
        alarms.append(
            "many endpoints fell silent at once: weights and health are frozen, the fault is probably ours"
        )
    judgement = np.isin(cause, JUDGEMENTS) & ~asked
    count = len(facts.ids)
    if not judgement.any():
        return cause, tuple(alarms)
    percent = policy.health.max_ejected_percent
    allowed = max(1, count * percent // 100) if percent and count > 1 else 0
    unable = asked | np.isin(cause, (Cause.REFUSED, Cause.ASLEEP, Cause.NOT_HEARD))
    spare = int((~judgement & ~unable).sum())
    if spare == 0:
        allowed = min(allowed, max(0, int(judgement.sum()) - 1))
    rows = np.flatnonzero(judgement)
    already = np.isin(memory.health[rows], OUT + LEAVING)
    names = np.array([facts.ids[row] for row in rows])
    surest_first = rows[np.lexsort((names, -cause[rows], ~already))]
    spared = surest_first[allowed:]
    if len(spared):
        first = ", ".join(facts.ids[row] for row in spared[:5])
        why = "the last that serve" if spare == 0 else f"over max_ejected_percent ({allowed} of {count})"
        alarms.append(f"kept in service although judged unfit, {why}: {first}{' …' if len(spared) > 5 else ''}")
        cause = cause.copy()
        cause[spared] = Cause.KEPT
    return cause, tuple(alarms)


def drain_times(
    pool: PoolSpec, facts: PoolFacts, memory: PoolMemory, drains: Mapping[str, Drain], draining: Bools, now: float
) -> tuple[Floats, Floats]:
    """When each endpoint's drain began and when it ends at the latest; NaN and inf where there is none."""
    started = np.full(len(facts.ids), np.nan)
    deadline = np.full(len(facts.ids), np.inf)
    for row in np.flatnonzero(draining):
        drain = drains.get(facts.ids[row])
        if drain is not None:
            started[row], deadline[row] = drain.started_at, drain.deadline_at
        else:
            started[row] = memory.health_since[row] if memory.health[row] in LEAVING else now
            deadline[row] = started[row] + pool.drain.deadline
    return started, deadline


def drained(
    view: SignalView, memory: PoolMemory, cause: Ints, started: Floats, deadline: Floats, now: float
) -> Bools:
    """Nothing in flight on data newer than the drain, or nobody there, or out of time; final until undrained."""
    in_flight = view.fresh(Signal.RUNNING) + view.fresh(Signal.WAITING)
    proxies_idle = ~(view.fresh(Signal.PROXY_ACTIVE) > 0)
    measured_after = view.times[Signal.RUNNING] > started
    idle = (in_flight == 0) & measured_after & proxies_idle
    was = memory.health == Health.DRAINED
    return np.asarray(was | idle | (cause == Cause.REFUSED) | (now >= deadline), dtype=np.bool_)


def next_health(view: SignalView, memory: PoolMemory, cause: Ints, draining: Bools) -> Ints:
    """The state that follows from the old one and what speaks against the endpoint."""
    answered_since = view.times[Signal.ANSWERED] > memory.health_since
    was_out = np.isin(memory.health, OUT)
    health = np.full(len(view.ids), Health.SERVING, dtype=np.int64)
    health[cause == Cause.NOT_HEARD] = Health.WARMING
    health[cause == Cause.SILENT] = Health.SUSPECT
    health[was_out & ~answered_since] = Health.FAILED
    health[cause == Cause.KEPT] = Health.SUSPECT
    health[np.isin(cause, (Cause.REFUSED, Cause.ASLEEP, Cause.LOST, Cause.TIMEOUTS, Cause.ERRORS))] = Health.FAILED
    health[np.isin(cause, (Cause.GPU_MISSING, Cause.HARDWARE))] = Health.QUARANTINED
    health[draining] = Health.DRAINING
    return health


def ramps(health: Ints, memory: PoolMemory, now: float) -> Floats:
    """Since when each endpoint's weight is being raised: it came back, or joined a pool that was serving."""
    in_service = np.isin(health, (Health.SERVING, Health.SUSPECT))
    was_in_service = np.isin(memory.health, (Health.SERVING, Health.SUSPECT))
    pool_was_serving = bool(was_in_service.any())
    start = in_service & ~was_in_service & pool_was_serving
    return np.where(start, now, np.where(in_service, memory.ramp_from, -np.inf))


def for_envoy(health: Ints, memory: PoolMemory) -> Ints:
    """The health status Envoy is told."""
    status = np.full(len(health), EnvoyHealth.HEALTHY, dtype=np.int64)
    status[np.isin(health, (Health.WARMING, *OUT))] = EnvoyHealth.UNHEALTHY
    leaving = np.isin(health, LEAVING)
    was_unhealthy = memory.envoy_health == EnvoyHealth.UNHEALTHY
    status[leaving] = np.where(was_unhealthy[leaving], EnvoyHealth.UNHEALTHY, EnvoyHealth.DRAINING)
    return status


def relaxation(view: SignalView, relax_over_s: float) -> Floats:
    """0 while load is fresh, rising to 1 over `relax_over_s` once it is stale; 1 where it was never seen."""
    age_s = view.age_s(Signal.RUNNING)
    stale_after_s, _ = view.bounds(SOURCES[Signal.RUNNING])
    if relax_over_s <= 0:
        return np.where(age_s > stale_after_s, 1.0, 0.0)
    blind: Floats = np.clip((age_s - stale_after_s) / relax_over_s, 0.0, 1.0)
    return blind
