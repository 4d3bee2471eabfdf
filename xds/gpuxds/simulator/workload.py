"""Who asks for how many tokens, and when: an open loop, since users do not wait for each other.

Arrivals are Poisson. Prompt and output lengths are log-normal, which is the shape of published traces of
conversations; the defaults have about their means (1,150 prompt tokens, 210 output tokens).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(slots=True)
class Workload:
    """Draws requests. `rng` decides everything, so a seed repeats a workload."""

    rng: random.Random
    prompt_median_tokens: float = 800.0
    prompt_sigma: float = 0.85
    prompt_max_tokens: int = 6000
    output_median_tokens: float = 160.0
    output_sigma: float = 0.7
    output_max_tokens: int = 700

    def request(self) -> tuple[int, int]:
        """Prompt and output tokens of the next request."""
        return (
            self.length(self.prompt_median_tokens, self.prompt_sigma, self.prompt_max_tokens),
            self.length(self.output_median_tokens, self.output_sigma, self.output_max_tokens),
        )

    def length(self, median: float, sigma: float, longest: int) -> int:
        """A log-normal length within 1..longest."""
        return max(1, min(longest, round(self.rng.lognormvariate(math.log(median), sigma))))

    def gap_s(self, rate_rps: float) -> float:
        """Seconds until the next request."""
        return self.rng.expovariate(rate_rps)
