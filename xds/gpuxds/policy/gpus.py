"""Known GPU models: what each can do before anything was measured, and the names people give them.

The priors are for Llama-3-8B in bf16, from the roofline model that the simulator also uses (a test holds the
two together). Their ratios matter, not their absolute values: weights are relative, and what a prior gets
wrong is learnt by the correction term. A policy can override a model or add one under `gpu_models`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.model import PriorSpec
from gpuxds.policy.priors import Prior

PRIORS: Mapping[str, Prior] = MappingProxyType(
    {
        "H100-80": Prior(80, 0.00657, 0.000089, 36_900, 443_700, 256),
        "A100-80": Prior(80, 0.01046, 0.000170, 11_950, 446_200, 256),
        "A100-40": Prior(40, 0.01356, 0.000185, 11_880, 155_800, 256),
        "L40S": Prior(48, 0.02140, 0.000274, 13_420, 192_000, 256),
        "A10G": Prior(24, 0.03062, 0.000480, 2_700, 28_600, 256),
        "L4": Prior(24, 0.06066, 0.000713, 4_500, 28_600, 256),
    }
)

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "h100": "H100-80", "h10080gb": "H100-80", "h100sxm": "H100-80", "h10080gbhbm3": "H100-80",
        "a10080": "A100-80", "a10080gb": "A100-80", "a100sxm480gb": "A100-80", "a10080gbpcie": "A100-80",
        "a10040": "A100-40", "a10040gb": "A100-40", "a100sxm440gb": "A100-40", "a100pcie40gb": "A100-40",
        "l40s48": "L40S", "l40s48gb": "L40S", "a10g24": "A10G", "a10g24gb": "A10G", "l424": "L4", "l424gb": "L4",
    }
)  # fmt: skip

PARALLEL_EFFICIENCY = 0.85
"""Speed kept by each further GPU of a tensor-parallel endpoint; the rest is communication."""
WEIGHTS_AND_OVERHEAD_GB = 17.7
KV_TOKENS_PER_GB = 7629.0
REFERENCE = "A100-80"


@lru_cache(maxsize=1024)
def known(model: str) -> str | None:
    """The table's name of a model, however it is spelt; None when it is not in the table."""
    plain = re.sub(r"[^a-z0-9]", "", model.lower().removeprefix("nvidia"))
    by_plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in PRIORS}
    return by_plain.get(plain) or ALIASES.get(plain)


def memory_of(model: str, gpu_models: Mapping[str, PriorSpec]) -> float | None:
    """Memory of one GPU of a model in GB; None when the model is not known."""
    if model in gpu_models:
        return gpu_models[model].memory_gb
    name = known(model)
    return PRIORS[name].memory_gb if name else None


def prior_of_model(model: str, memory_gb: float, gpu_models: Mapping[str, PriorSpec]) -> Prior:
    """The prior of one GPU: the policy's, else the table's, else one derived from memory.

    A derived prior takes the speed of an A100-80 scaled by memory, which is rough but monotonic; what it
    gets wrong is learnt. `gpuxds check` warns about it.
    """
    if model in gpu_models:
        spec = gpu_models[model]
        return Prior(
            spec.memory_gb, spec.step_s, spec.step_per_sequence_s, spec.prefill_tokens_per_s, spec.kv_tokens,
            spec.max_batch,
        )  # fmt: skip
    name = known(model)
    if name:
        return PRIORS[name]
    reference = PRIORS[REFERENCE]
    scale = memory_gb / reference.memory_gb
    kv_tokens = max(2048.0, (0.95 * memory_gb - WEIGHTS_AND_OVERHEAD_GB) * KV_TOKENS_PER_GB)
    return Prior(
        memory_gb,
        reference.step_s / scale,
        reference.step_per_sequence_s / scale,
        reference.prefill_tokens_per_s * scale,
        kv_tokens,
    )


def prior_for(endpoint: Endpoint, gpu_models: Mapping[str, PriorSpec]) -> Prior:
    """The prior of a whole endpoint: all its GPUs together."""
    one = prior_of_model(endpoint.gpu.model, endpoint.gpu.memory_gb, gpu_models)
    count = endpoint.gpu.count
    if count == 1:
        return one
    speed = 1 + PARALLEL_EFFICIENCY * (count - 1)
    spare_kv = (count - 1) * 0.95 * one.memory_gb * KV_TOKENS_PER_GB
    return Prior(
        one.memory_gb * count,
        one.step_s / speed,
        one.step_per_sequence_s / speed,
        one.prefill_tokens_per_s * speed,
        one.kv_tokens + spare_kv,
        one.max_batch,
    )


def default_capacity(prior: Prior) -> int:
    """Requests an endpoint can run at once, of the mean size of a chat (1,155 + 211 / 2 tokens)."""
    return max(1, min(prior.max_batch, int(prior.kv_tokens / 1366)))
