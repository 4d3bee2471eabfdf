"""From factors to the integers Envoy is told, and whether it is worth telling.

Envoy takes weights from 1 to 2^32-1 whose sum stays below 2^32, and rejects a whole assignment for one 0.
A push rebuilds Envoy's scheduler with a random start, so weights that hardly differ are not pushed: only when
some ln(weight) moved by more than the dead-band, and not more often than `min_interval`. Health and
membership never wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuxds.scoring.contract import Term
from gpuxds.signals.model import Bools, Floats, Ints

LARGEST_SUM = 2**32 - 1
RAMP_FLOOR = 0.05
"""Weight with which a ramp begins, as a share of the full one."""
SMALLEST, LARGEST = 1e-9, 1e12


def product(terms: Sequence[Term], count: int) -> Floats:
    """The product of all factors, with whatever is not a positive number brought into range."""
    raw = np.ones(count)
    for term in terms:
        raw = raw * term.values
    usable = np.nan_to_num(raw, nan=SMALLEST, posinf=LARGEST, neginf=SMALLEST)
    return np.clip(usable, SMALLEST, LARGEST)


def integers(raw: Floats, scale: int) -> Ints:
    """Weights from 1 to `scale`, the largest being `scale`; a lower scale where the sum would overflow."""
    if len(raw) == 0:
        return np.zeros(0, dtype=np.int64)
    top = min(scale, LARGEST_SUM // len(raw))
    weights: Ints = np.maximum(1, np.rint(top * (raw / raw.max()))).astype(np.int64)
    return weights


def ramp(ramp_from: Floats, ramp_s: float, now: float) -> Term:
    """Raises the weight of an endpoint that came back, linearly over `ramp_s`."""
    share = np.ones(len(ramp_from))
    ramping = np.isfinite(ramp_from)
    if ramp_s > 0:
        share[ramping] = np.clip((now - ramp_from[ramping]) / ramp_s, RAMP_FLOOR, 1.0)
    return Term("ramp", share, "an endpoint that came back is given traffic step by step")


def largest_change(before: Ints, after: Ints, rows: Bools) -> float:
    """The largest |Δ ln weight| among `rows`; 0 when there are none."""
    if not rows.any():
        return 0.0
    return float(np.abs(np.log(after[rows] / np.maximum(1, before[rows]))).max())
