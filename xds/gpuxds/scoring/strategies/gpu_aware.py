"""`gpu_aware`: weight = capacity x fast-first x correction x backlog x compensation.

The law was simulated on real traces against Envoy's own policies and against per-request pickers. In one
breath: give each GPU what it can sustain, prefer fast ones while there is room, learn slowdowns that the
priors do not explain, back off from queues, and undo the flattening that least request does to weights.
Every factor is a term in `scoring.terms`, with its inputs; their product is the weight.

Endpoints whose load is not fresh are taken for average ones and their own factors fade to 1 as they go blind.
A pool of identical hardware gets equal weights: there Envoy's full scan with equal weights was better than
any pushed weight, also when one GPU was slow.
"""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import GpuAware
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.terms import backlog, capacity, compensation, correction, fast_first
from gpuxds.scoring.terms.state import PoolState, measure

HOMOGENEOUS = "identical hardware: equal weights, so that Envoy's least request is in force"


def build(parameters: GpuAware) -> WeightFunction:
    """The weight function."""

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        state = measure(inputs, parameters, carried)
        integral = correction.learn(state, inputs, parameters, carried)
        scalars = {"rho": state.rho}
        if inputs.homogeneous:
            term = Term("equal", np.ones(len(inputs.ids)), HOMOGENEOUS)
            return Weighing((term,), {"integral": integral}, scalars, equal=True, note=HOMOGENEOUS)
        terms = (
            capacity.term(state, inputs),
            fast_first.term(state),
            correction.term(state, inputs, integral),
            backlog.term(inputs, parameters),
            compensation.term(state, inputs, parameters),
        )
        return Weighing(terms, {"integral": integral}, scalars, note=note(state, inputs))

    return weigh


def note(state: PoolState, inputs: PoolInputs) -> str:
    """The pool in one sentence."""
    return (
        f"{state.active:.0f} requests in the pool, {100 * state.rho:.0f} % of what it sustains; "
        f"a request has {inputs.prompt_tokens:.0f} + {inputs.output_tokens:.0f} tokens on average"
    )
