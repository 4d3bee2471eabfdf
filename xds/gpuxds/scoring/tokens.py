"""How long requests are, over the whole fleet: mean prompt and output tokens per request.

The weight law needs them to turn GPU speeds into requests per second. They come from the engines' counters,
averaged over a few seconds, and from chat traffic of a public trace until there is traffic to measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuxds.signals.model import Signal, SignalView

LEAST_REQUEST_RATE = 0.05
"""Requests per second below which a mean says nothing."""
PROMPT_RANGE = (1.0, 200_000.0)
OUTPUT_RANGE = (1.0, 100_000.0)


@dataclass(frozen=True, slots=True)
class TokenMeans:
    """Tokens per request."""

    prompt_tokens: float = 1155.0
    output_tokens: float = 211.0


DEFAULT = TokenMeans()


def token_means(view: SignalView) -> TokenMeans:
    """The means over endpoints with fresh counters; the defaults where there is no traffic."""
    requests, prompt, output = (
        view.fresh(signal) for signal in (Signal.REQUEST_RATE, Signal.PROMPT_TOKENS_RATE, Signal.OUTPUT_TOKENS_RATE)
    )
    known = ~(np.isnan(requests) | np.isnan(prompt) | np.isnan(output))
    rate = float(requests[known].sum())
    if rate < LEAST_REQUEST_RATE:
        return DEFAULT
    return TokenMeans(
        float(np.clip(prompt[known].sum() / rate, *PROMPT_RANGE)),
        float(np.clip(output[known].sum() / rate, *OUTPUT_RANGE)),
    )
