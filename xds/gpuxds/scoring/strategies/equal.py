"""Equal weights: `round_robin`, `full_scan`, `least_connections` and `consistent_hash` leave the choice to
Envoy; they differ in its policy alone (see `registry.lb_of`)."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import Parameters
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction


def build(parameters: Parameters) -> WeightFunction:
    """The weight function; it has no parameters of its own."""
    del parameters

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        term = Term("equal", np.ones(len(inputs.ids)), "every endpoint has the same weight")
        return Weighing((term,), equal=True)

    return weigh
