"""Capacity: requests per second the hardware sustains with requests of today's size.

An L4 is not an H100. The GPU's speed, what its KV cache holds, and the clocks it runs at are all in here.
"""

from __future__ import annotations

from gpuxds.scoring.contract import PoolInputs, Term
from gpuxds.scoring.terms.state import PoolState


def term(state: PoolState, inputs: PoolInputs) -> Term:
    """C of the law, in requests per second."""
    return Term(
        "capacity",
        state.capacity_rps,
        "requests per second this hardware sustains",
        {"batch_max": state.batch_max, "step_s": inputs.priors.step_s},
    )
