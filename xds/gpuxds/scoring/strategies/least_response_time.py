"""`least_response_time`: the inverse of the end-to-end latency EWMA."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import LeastResponseTime
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.strategies.common import latency_s

SHORTEST_S = 0.001


def build(parameters: LeastResponseTime) -> WeightFunction:
    """The weight function."""
    del parameters

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        latency = np.maximum(latency_s(inputs), SHORTEST_S)
        why = "1 / mean latency; the median where it is not fresh"
        return Weighing((Term("inverse_latency", 1 / latency, why, {"latency_s": latency}),))

    return weigh
