"""`weighted_round_robin`: fixed weights by the memory tier of one GPU, with a bonus for cheap endpoints."""

from __future__ import annotations

import numpy as np

from gpuxds.policy.strategies import WeightedRoundRobin
from gpuxds.scoring.contract import Carried, PoolInputs, Term, Weighing, WeightFunction


def build(parameters: WeightedRoundRobin) -> WeightFunction:
    """The weight function."""
    tiers = sorted(parameters.memory_tiers_gb.items())

    def weigh(inputs: PoolInputs, carried: Carried) -> Weighing:
        del carried
        tier = np.ones(len(inputs.ids))
        for least_gb, weight in tiers:
            tier = np.where(inputs.memory_per_gpu_gb >= least_gb, weight, tier)
        cheap = inputs.price_per_hour < parameters.cheap_below_per_hour  # unknown prices are NaN: not cheap
        price = np.where(cheap, parameters.cheap_factor, 1.0)
        return Weighing(
            (
                Term("memory_tier", tier, "more memory, more weight", {"memory_gb": inputs.memory_per_gpu_gb}),
                Term("price", price, f"bonus below {parameters.cheap_below_per_hour:g} per hour"),
            )
        )

    return weigh
