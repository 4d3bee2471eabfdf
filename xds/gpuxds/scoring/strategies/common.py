"""What several strategies need: stand-ins for numbers nobody gave.

Absent is not 0. An endpoint without a signal is taken for a middling one, the median of those that have it,
so that silence neither attracts traffic nor repels it.
"""

from __future__ import annotations

import numpy as np

from gpuxds.scoring.contract import PoolInputs
from gpuxds.signals.model import Floats, Signal


def or_median(values: Floats, neutral: float = 1.0) -> Floats:
    """NaN replaced by the median of the rest; by `neutral` where nobody has a value."""
    known = values[~np.isnan(values)]
    return np.where(np.isnan(values), float(np.median(known)) if len(known) else neutral, values)


def outstanding(inputs: PoolInputs) -> Floats:
    """Requests running and waiting on fresh data; NaN where it is not fresh."""
    found: Floats = inputs.view.fresh(Signal.RUNNING) + inputs.view.fresh(Signal.WAITING)
    return found


def latency_s(inputs: PoolInputs) -> Floats:
    """Mean end-to-end latency in seconds as clients see it, else as the engine measures it; the pool's median where
    neither is fresh."""
    seen = inputs.view.fresh(Signal.PROXY_LATENCY_S)
    return or_median(np.where(np.isnan(seen), inputs.view.fresh(Signal.LATENCY_S), seen))


def load_ratio(inputs: PoolInputs) -> Floats:
    """(running + waiting) / capacity; the pool's median where not fresh, 0.5 where nobody is."""
    return or_median(outstanding(inputs) / inputs.capacity, 0.5)
