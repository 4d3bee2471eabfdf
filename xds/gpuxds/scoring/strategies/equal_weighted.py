"""`equal_weighted`: the inverse of the requests an endpoint has served in its life, so that totals even out."""

from __future__ import annotations

from gpuxds.policy.strategies import EqualWeighted
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.strategies.common import or_median
from gpuxds.signals.model import Signal


def build(parameters: EqualWeighted) -> WeightFunction:
    """The weight function."""
    del parameters

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        served = or_median(inputs.view.value(Signal.REQUESTS_TOTAL), 0.0)
        why = "1 / (requests served in its life + 1); the median where the engine does not say"
        return Weighing((Term("inverse_total", 1 / (served + 1), why, {"requests_total": served}),))

    return weigh
