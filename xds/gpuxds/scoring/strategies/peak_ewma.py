"""`peak_ewma`: the inverse of latency EWMA x (outstanding + 1), as Finagle's and linkerd's balancers do it."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import PeakEwma
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.strategies.common import latency_s, or_median, outstanding

SHORTEST_S = 0.001


def build(parameters: PeakEwma) -> WeightFunction:
    """The weight function."""
    del parameters

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        latency = np.maximum(latency_s(inputs), SHORTEST_S)
        busy = or_median(outstanding(inputs), 0.0)
        return Weighing(
            (
                Term("inverse_latency", 1 / latency, "1 / peak latency", {"latency_s": latency}),
                Term("inverse_outstanding", 1 / (busy + 1), "1 / (outstanding + 1)", {"outstanding": busy}),
            )
        )

    return weigh
