"""What all factors of the law share: what each endpoint can sustain, and how full the pool is.

With a batch of B, an endpoint finishes X(B) = B / (g (a + beta B) + B p / P) requests per second, where p and
g are mean prompt and output tokens, a and beta the step time at batch 1 and per further sequence, P the
prefill rate. Its batch is bounded by max_num_seqs, its stated capacity and its KV cache: that is how memory
enters. C = X(B_max) is its capacity, S the batch at which it reaches `saturation` of C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuxds.policy.strategies import GpuAware
from gpuxds.scoring.contract import Carried, PoolInputs
from gpuxds.signals.model import Floats, Signal

RHO_TAU_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolState:
    """Columns over endpoints, and the pool as a whole."""

    batch_max: Floats
    """Most requests at once."""
    capacity_rps: Floats
    """C: requests per second at that batch."""
    sustained: Floats
    """S: requests at once that give `saturation` of C."""
    preference: Floats
    """pi: fast-first factor, 0..1."""
    target: Floats
    """S' = S pi: requests at once this endpoint should have, up to a common factor."""
    load: Floats
    """Requests running and waiting; NaN where not fresh."""
    active: float
    """A: requests in the pool, blind endpoints counted as average ones."""
    utilisation: float
    """u: A / sum S' over usable endpoints."""
    rho: float
    """Smoothed share of what the pool sustains, 0..1."""


def measure(inputs: PoolInputs, parameters: GpuAware, carried: Carried) -> PoolState:
    """The state of the pool now."""
    priors = inputs.priors
    prompt, output = inputs.prompt_tokens, inputs.output_tokens
    seen_kv = inputs.view.value(Signal.KV_CAPACITY_TOKENS)
    kv_tokens = np.where(np.isnan(seen_kv), priors.kv_tokens, seen_kv)
    batch_max = np.maximum(
        1.0, np.minimum.reduce([priors.max_batch, inputs.capacity, kv_tokens / (prompt + output / 2)])
    )
    fixed = output * priors.step_s
    per_sequence = output * priors.step_per_sequence_s + prompt / priors.prefill_tokens_per_s
    capacity_rps = batch_max / (fixed + per_sequence * batch_max)
    wanted_rps = parameters.saturation * capacity_rps
    sustained = wanted_rps * fixed / (1 - wanted_rps * per_sequence)
    load = inputs.view.fresh(Signal.RUNNING) + inputs.view.fresh(Signal.WAITING)
    active = active_requests(load, sustained, inputs)
    total = float(sustained[inputs.usable].sum())
    rho = smoothed(min(1.0, active / total) if total > 0 else 0.0, carried)
    latency = prompt / priors.prefill_tokens_per_s + output * (
        priors.step_s + priors.step_per_sequence_s * rho * sustained
    )
    reference = latency[inputs.usable] if inputs.usable.any() else latency
    fastest = float(reference.min()) if len(reference) else 1.0
    preference = np.minimum(1.0, fastest / latency) ** (parameters.fast_first_exponent * (1 - rho))
    target = sustained * preference
    active = active_requests(load, target, inputs)
    total = float(target[inputs.usable].sum())
    utilisation = active / total if total > 0 else 0.0
    return PoolState(batch_max, capacity_rps, sustained, preference, target, load, active, utilisation, rho)


def active_requests(load: Floats, share: Floats, inputs: PoolInputs) -> float:
    """Requests in the pool; an endpoint that cannot be seen is taken to be as full as the rest."""
    seen = inputs.usable & ~np.isnan(load)
    base = float(share[seen].sum())
    if base <= 0:
        return 0.0
    return float(load[seen].sum()) * float(share[inputs.usable].sum()) / base


def smoothed(rho: float, carried: Carried) -> float:
    """rho averaged over 5 s."""
    before = carried.scalars.get("rho")
    if before is None:
        return rho
    return rho + (before - rho) * math.exp(-carried.elapsed_s / RHO_TAU_S)
