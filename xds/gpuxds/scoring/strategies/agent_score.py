"""`agent_score`: 0.5 availability + 0.3 success rate + 0.2 x 60 / mean seconds (the last capped at 1)."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import AgentScore
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction
from gpuxds.scoring.strategies.common import latency_s, load_ratio, or_median
from gpuxds.signals.model import Floats, Signal

FLOOR = 0.001
"""A score of 0 is still a positive weight: taking an endpoint out is health's business."""


def build(parameters: AgentScore) -> WeightFunction:
    """The weight function."""

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        available = np.clip(1 - load_ratio(inputs), 0, 1)
        success = success_rate(inputs)
        mean_s = np.maximum(1.0, latency_s(inputs))
        speed = np.minimum(1.0, parameters.speed_reference / mean_s)
        score = parameters.availability * available + parameters.success_rate * success + parameters.speed * speed
        parts = {"availability": available, "success_rate": success, "speed": speed, "mean_s": mean_s}
        why = "weighted sum of availability, success rate and speed"
        return Weighing((Term("score", np.maximum(score, FLOOR), why, parts),))

    return weigh


def success_rate(inputs: PoolInputs) -> Floats:
    """Answered / finished as the proxies count; 1 where nothing was sent yet."""
    ok, errors = inputs.view.value(Signal.PROXY_OK), inputs.view.value(Signal.PROXY_ERRORS)
    finished = ok + errors
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(finished > 0, ok / finished, np.nan)
    return or_median(rate)
