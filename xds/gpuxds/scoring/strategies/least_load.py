"""`least_load`: the endpoint with the lowest (running + waiting) / capacity is preferred; ties go to the one
with the most GPU memory; endpoints that tie in both share."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import LeastLoad
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.strategies.common import load_ratio


def build(parameters: LeastLoad) -> WeightFunction:
    """The weight function."""

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        load = load_ratio(inputs)
        weights = np.full(len(inputs.ids), parameters.others_weight)
        order = np.lexsort((-inputs.memory_gb, load, ~inputs.usable))
        if len(order):
            first = order[0]
            same = (load == load[first]) & (inputs.memory_gb == inputs.memory_gb[first])
            weights[same & (inputs.usable == inputs.usable[first])] = 1.0
        why = f"1 for the least loaded (ties: most GPU memory), {parameters.others_weight:g} for the others"
        return Weighing((Term("preferred", weights, why, {"load_ratio": load, "memory_gb": inputs.memory_gb}),))

    return weigh
