"""One decision for one pool: health, then weights, then whether Envoy must be told; and the same for its slices.

A pure function of what it is handed: the same policy, facts, view, memory, drains, proxies and time give the
same bytes on every replica. The order matters: freezing decides what silence may do to health, health decides
whose load counts, and the dead-band decides what of it all is worth a push. A slice takes health from its pool's
decision and weighs its members on their own, since the best share of large requests is not that of all requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.priors import PriorColumns
from gpuxds.policy.slices import Slice
from gpuxds.scoring.contract import (
    Carried,
    Drain,
    Health,
    PoolDecision,
    PoolInputs,
    PoolMemory,
    Weighing,
)
from gpuxds.scoring.facts import PoolFacts
from gpuxds.scoring.freeze import frozen_since
from gpuxds.scoring.health import Verdict, assess
from gpuxds.scoring.health import relaxation as relaxation_of
from gpuxds.scoring.memory import realign
from gpuxds.scoring.registry import weight_function
from gpuxds.scoring.tokens import TokenMeans
from gpuxds.scoring.weights import integers, largest_change, product, ramp
from gpuxds.signals.model import Floats, Ints, Signal, SignalView
from gpuxds.signals.presets.dcgm import SLOWDOWN_BITS

SLOWEST = 0.05
"""A clock ratio below this is a reading, not a speed."""


def decide(
    policy: Policy,
    pool: PoolSpec,
    facts: PoolFacts,
    view: SignalView,
    memory: PoolMemory,
    drains: Mapping[str, Drain],
    proxies: int,
    now: float,
    tokens: TokenMeans,
    reserved: Collection[str] = (),
) -> PoolDecision:
    """Weights and health of every endpoint of a pool. `view` may cover more endpoints than the pool has.

    `reserved` are the ids that its shared cluster must do without.
    """
    view = aligned(view, facts.ids)
    known = set(memory.ids)
    memory = realign(memory, facts.ids)
    since = frozen_since(view, policy.health, memory.frozen_since, now)
    verdict = assess(policy, pool, facts, view, memory, drains, frozen=bool(since), now=now)
    if not reserved:
        return weighed(policy, pool, pool.name, facts, view, memory, known, verdict, since, proxies, now, tokens)
    held = np.array([endpoint_id in reserved for endpoint_id in facts.ids], dtype=np.bool_)
    shared = replace(verdict, in_eds=verdict.in_eds & ~held)
    made = weighed(policy, pool, pool.name, facts, view, memory, known, shared, since, proxies, now, tokens)
    return replace(made, reserved=held & verdict.in_eds)


def decide_slice(
    policy: Policy,
    pool: PoolSpec,
    part: Slice,
    facts: PoolFacts,
    whole: PoolDecision,
    memory: PoolMemory,
    tokens: TokenMeans,
) -> PoolDecision:
    """Weights of a slice's members, given the decision on the whole pool. `facts` are those of the pool."""
    where = {endpoint_id: row for row, endpoint_id in enumerate(facts.ids)}
    rows = np.array([where[endpoint_id] for endpoint_id in part.ids], dtype=np.int64)
    facts, view = facts.take(rows), whole.view.take(rows)
    known = set(memory.ids)
    memory = realign(memory, facts.ids)
    health = whole.health[rows]
    verdict = Verdict(
        health=health,
        since=whole.memory.health_since[rows],
        ramp_from=whole.memory.ramp_from[rows],
        cause=whole.cause[rows],
        envoy_health=whole.envoy_health[rows],
        in_eds=facts.has_address & (health != Health.DRAINED),
        alarms=(),
    )
    since, proxies = whole.memory.frozen_since, whole.proxies
    tokens = replace(tokens, prompt_tokens=max(tokens.prompt_tokens, part.least_prompt_tokens))
    return weighed(
        policy, pool, part.cluster, facts, view, memory, known, verdict, since, proxies, whole.at, tokens
    )


def weighed(
    policy: Policy,
    pool: PoolSpec,
    cluster: str,
    facts: PoolFacts,
    view: SignalView,
    memory: PoolMemory,
    known: set[str],
    verdict: Verdict,
    frozen: float,
    proxies: int,
    now: float,
    tokens: TokenMeans,
) -> PoolDecision:
    """Weights of one cluster's endpoints whose health is known, and whether Envoy must be told."""
    blind = relaxation_of(view, policy.signals.relax_over)
    inputs = pool_inputs(facts, view, verdict, np.zeros_like(blind) if frozen else blind, proxies, tokens)
    elapsed_s = max(0.0, now - memory.decided_at) if memory.decided_at else 0.0
    weighing = weight_function(pool.strategy)(inputs, Carried(memory.columns, memory.scalars, elapsed_s))
    terms = (*weighing.terms, ramp(verdict.ramp_from, policy.health.ramp, now))
    wanted = integers(product(terms, len(facts.ids)), policy.weights.scale)
    if frozen:
        wanted = np.where(memory.weights > 0, memory.weights, wanted)
    reason = push_reason(policy, memory, known, verdict, wanted, now, frozen=bool(frozen))
    weights = wanted if reason else np.where(memory.weights > 0, memory.weights, wanted)
    return PoolDecision(
        pool=pool.name,
        cluster=cluster,
        strategy=pool.strategy.name,
        at=now,
        endpoints=facts.endpoints,
        ids=facts.ids,
        weights=weights,
        wanted=wanted,
        health=verdict.health,
        envoy_health=verdict.envoy_health,
        in_eds=verdict.in_eds,
        reserved=np.zeros(len(facts.ids), dtype=np.bool_),
        terms=terms,
        cause=verdict.cause,
        equal=weighing.equal,
        note=weighing.note,
        proxies=proxies,
        view=view,
        relaxation=blind,
        push=bool(reason),
        push_reason=reason,
        frozen=bool(frozen),
        alarms=verdict.alarms,
        memory=remember(memory, verdict, weighing, weights, frozen, now, pushed=bool(reason)),
    )


def pool_inputs(
    facts: PoolFacts, view: SignalView, verdict: Verdict, relaxation: Floats, proxies: int, tokens: TokenMeans
) -> PoolInputs:
    """What a strategy may look at. An endpoint that says its capacity itself is believed while it is heard."""
    said = view.value(Signal.CAPACITY)
    capacity = np.where(np.isnan(said), facts.capacity, said)
    return PoolInputs(
        ids=facts.ids,
        now=view.now,
        capacity=capacity,
        memory_gb=facts.memory_gb,
        memory_per_gpu_gb=facts.memory_per_gpu_gb,
        price_per_hour=facts.price_per_hour,
        priors=throttled(facts.priors, view),
        homogeneous=facts.homogeneous and len(np.unique(capacity)) <= 1,
        view=view,
        usable=verdict.usable,
        relaxation=relaxation,
        proxies=proxies,
        prompt_tokens=tokens.prompt_tokens,
        output_tokens=tokens.output_tokens,
    )


def aligned(view: SignalView, ids: tuple[str, ...]) -> SignalView:
    """The view of exactly `ids`; endpoints it does not know have never been seen."""
    if view.ids == ids:
        return view
    where = {endpoint_id: row for row, endpoint_id in enumerate(view.ids)}
    rows = np.array([where.get(endpoint_id, len(view.ids)) for endpoint_id in ids], dtype=np.int64)
    nobody = np.full((len(Signal), 1), np.nan)
    values = np.concatenate([view.values, nobody], axis=1)[:, rows]
    times = np.concatenate([view.times, np.full_like(nobody, -np.inf)], axis=1)[:, rows]
    return SignalView(ids, view.now, values, times, view.rules)


def throttled(priors: PriorColumns, view: SignalView) -> PriorColumns:
    """The priors at the clocks the GPUs run at now; clocks count only while the hardware says it slows down."""
    bits = np.nan_to_num(view.fresh(Signal.THROTTLE_BITS)).astype(np.int64)
    ratio = np.clip(view.fresh(Signal.SM_CLOCK_RATIO), SLOWEST, 1.0)
    speed = np.where(((bits & SLOWDOWN_BITS) != 0) & ~np.isnan(ratio), ratio, 1.0)
    if (speed == 1.0).all():
        return priors
    return replace(
        priors,
        step_s=priors.step_s / speed,
        step_per_sequence_s=priors.step_per_sequence_s / speed,
        prefill_tokens_per_s=priors.prefill_tokens_per_s * speed,
    )


def push_reason(
    policy: Policy,
    memory: PoolMemory,
    known: set[str],
    verdict: Verdict,
    wanted: Ints,
    now: float,
    *,
    frozen: bool,
) -> str:
    """Why Envoy must be told now; empty when it need not."""
    was_in_eds = memory.weights > 0
    if (was_in_eds != verdict.in_eds).any() or known - set(memory.ids):
        return "membership"
    if (verdict.in_eds & (memory.envoy_health != verdict.envoy_health)).any():
        return "health"
    if frozen or now - memory.pushed_at < policy.weights.min_interval:
        return ""
    change = largest_change(memory.weights, wanted, verdict.usable)
    return "weights" if change > policy.weights.dead_band else ""


def remember(
    memory: PoolMemory,
    verdict: Verdict,
    weighing: Weighing,
    weights: Ints,
    frozen: float,
    now: float,
    *,
    pushed: bool,
) -> PoolMemory:
    """What the next decision must know; weight 0 marks an endpoint that is not in the assignment."""
    cause: Floats = verdict.cause.astype(np.float64)
    return PoolMemory(
        ids=memory.ids,
        decided_at=now,
        pushed_at=now if pushed else memory.pushed_at,
        frozen_since=frozen,
        health=verdict.health,
        health_since=verdict.since,
        ramp_from=verdict.ramp_from,
        weights=np.where(verdict.in_eds, weights, 0),
        envoy_health=verdict.envoy_health,
        columns={**weighing.carried, "cause": cause},
        scalars=dict(weighing.carried_scalars),
    )
