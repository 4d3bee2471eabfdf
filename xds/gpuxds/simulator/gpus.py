"""How long one step takes: a roofline model of Llama-3-8B in bf16 on real GPUs.

A step decodes one token of every running sequence and prefills chunks of new prompts. Its time is the
p-norm (p = 1.4) of reading the weights and computing on them, plus reading the KV cache, plus attention over
new tokens, plus a small cost per step and per sequence. Bandwidth, FLOPS, memory and power are the makers'
data sheets; efficiencies were fitted to published vLLM measurements (steps within 10 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PARAMETERS = 8.03e9
LAYERS, HIDDEN = 32, 4096
KV_BYTES_PER_TOKEN = 131_072
WEIGHT_BYTES = 2 * PARAMETERS
RESERVED_BYTES = 1.6e9
NORM = 1.4
COMPUTE_EFFICIENCY, KV_EFFICIENCY, ATTENTION_EFFICIENCY = 0.66, 0.85, 0.40
STEP_OVERHEAD_S, SEQUENCE_OVERHEAD_S = 0.0005, 0.000_015
REQUEST_OVERHEAD_S = 0.006


@dataclass(frozen=True, slots=True)
class GpuType:
    """One GPU model's data sheet."""

    name: str
    memory_mib: int
    bandwidth_tb_s: float
    tflops: float
    """Dense bf16."""
    power_w: float
    bandwidth_efficiency: float
    max_sm_clock_mhz: int
    product: str
    """As DCGM names it."""
    max_batched_tokens: int = 2048

    @property
    def kv_tokens(self) -> int:
        """Tokens the KV cache holds when vLLM may use 90 % of the memory."""
        usable = 0.985 * self.memory_mib * 2**20 * 0.90 - WEIGHT_BYTES - RESERVED_BYTES
        return int(usable / KV_BYTES_PER_TOKEN)

    def step_s(
        self, decoding: int, context_tokens: float, chunks: tuple[tuple[int, int], ...], speed: float
    ) -> float:
        """Seconds of one step.

        decoding: sequences that decode one token each; context_tokens: their contexts together; chunks:
        (new tokens, tokens already in the KV cache) of each prefill chunk; speed: 1 at full clocks.
        """
        new_tokens = decoding + sum(new for new, _ in chunks)
        bandwidth, flops = self.bandwidth_tb_s * 1e12 * speed, self.tflops * 1e12 * speed
        read_s = WEIGHT_BYTES / (self.bandwidth_efficiency * bandwidth)
        compute_s = 2 * PARAMETERS * new_tokens / (COMPUTE_EFFICIENCY * flops)
        cached = context_tokens + sum(done for _, done in chunks)
        kv_s = KV_BYTES_PER_TOKEN * cached / (KV_EFFICIENCY * bandwidth)
        attention_s = sum(
            4 * LAYERS * HIDDEN * new * (done + new / 2) / (ATTENTION_EFFICIENCY * flops) for new, done in chunks
        )
        overhead_s = STEP_OVERHEAD_S + SEQUENCE_OVERHEAD_S * (decoding + len(chunks))
        return overhead_s + float((read_s**NORM + compute_s**NORM) ** (1 / NORM)) + kv_s + attention_s


TYPES: Mapping[str, GpuType] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            GpuType("H100-80", 81559, 3.35, 989, 700, 0.80, 1980, "NVIDIA H100 80GB HBM3", 8192),
            GpuType("A100-80", 81920, 2.039, 312, 400, 0.80, 1410, "NVIDIA A100-SXM4-80GB"),
            GpuType("A100-40", 40960, 1.555, 312, 400, 0.80, 1410, "NVIDIA A100-SXM4-40GB"),
            GpuType("L40S", 46068, 0.864, 362, 350, 0.90, 2520, "NVIDIA L40S"),
            GpuType("A10G", 23028, 0.600, 70, 300, 0.90, 1710, "NVIDIA A10G"),
            GpuType("L4", 23034, 0.300, 121, 72, 0.90, 2040, "NVIDIA L4"),
        )
    }
)
