"""Correction: what the priors do not explain, learnt slowly from who is fuller than the rest.

An integral controller on relative load. Its gain is about 30 times below the one at which weights herd; a
leak forgets, bounds limit it to a factor of 7.4, and it stands still for an endpoint whose load is not fresh.
"""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import GpuAware
from gpuxds.scoring.contract import Carried, PoolInputs, Term
from gpuxds.scoring.terms.state import PoolState
from gpuxds.signals.model import Floats

LEAST_UTILISATION = 0.05
FULL_GAIN_AT = 0.1
LONGEST_STEP_S = 5.0
"""A decision that comes late counts for this long at most."""


def learn(state: PoolState, inputs: PoolInputs, parameters: GpuAware, carried: Carried) -> Floats:
    """The new integral per endpoint, in ln(weight)."""
    before = np.nan_to_num(carried.columns.get("integral", np.zeros(len(inputs.ids))))
    dt_s = min(carried.elapsed_s, LONGEST_STEP_S)
    error = np.clip(
        (state.load / state.target - state.utilisation) / max(state.utilisation, LEAST_UTILISATION), -1.0, 1.0
    )
    gain = parameters.integral_gain * dt_s * min(1.0, state.utilisation / FULL_GAIN_AT)
    after = (before + gain * error) * (1 - parameters.integral_leak * dt_s)
    limit = parameters.integral_limit
    moving = inputs.usable & ~np.isnan(error)
    return np.where(moving, np.clip(after, -limit, limit), before)


def term(state: PoolState, inputs: PoolInputs, integral: Floats) -> Term:
    """exp(-I), fading to 1 as the endpoint goes blind."""
    return Term(
        "correction",
        np.exp(-integral * (1 - inputs.relaxation)),
        "learnt: fuller than its share for a while means slower than believed",
        {"learnt_ln": integral, "load_requests": state.load},
    )
