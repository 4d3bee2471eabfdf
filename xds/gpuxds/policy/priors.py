"""What a GPU model can do before anything was measured, for every endpoint of a fleet as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prior:
    """One GPU model, or several GPUs of it working together. Llama-3-8B in bf16 unless the policy says more."""

    memory_gb: float
    step_s: float
    """Seconds per output token at batch 1 (`a` of the law)."""
    step_per_sequence_s: float
    """Further seconds per output token for each further sequence (`beta`)."""
    prefill_tokens_per_s: float
    """Prompt tokens per second (`P`)."""
    kv_tokens: float
    """Tokens the KV cache holds; bounds how many requests run at once."""
    max_batch: int = 256


@dataclass(frozen=True, slots=True)
class PriorColumns:
    """The priors of a pool's endpoints, one array per parameter."""

    step_s: NDArray[np.float64]
    step_per_sequence_s: NDArray[np.float64]
    prefill_tokens_per_s: NDArray[np.float64]
    kv_tokens: NDArray[np.float64]
    max_batch: NDArray[np.float64]

    @classmethod
    def of(cls, priors: list[Prior]) -> PriorColumns:
        """Columns in the order of `priors`."""
        return cls(
            *(
                np.array([getattr(prior, name) for prior in priors], dtype=np.float64)
                for name in (
                    "step_s",
                    "step_per_sequence_s",
                    "prefill_tokens_per_s",
                    "kv_tokens",
                    "max_batch",
                )
            )
        )

    def take(self, rows: NDArray[np.int64]) -> PriorColumns:
        """The columns of some endpoints only."""
        return PriorColumns(
            self.step_s[rows],
            self.step_per_sequence_s[rows],
            self.prefill_tokens_per_s[rows],
            self.kv_tokens[rows],
            self.max_batch[rows],
        )
