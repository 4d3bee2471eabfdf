"""The metric pages of a fake GPU server: vLLM V1's and the DCGM exporter's, with the names of the real ones.

Histograms take a weight, because one step makes a token for each running sequence and counting them one by
one would cost more than the rest of the simulation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gpuxds.simulator.faults import Faults
from gpuxds.simulator.gpus import GpuType
from gpuxds.simulator.replica import Replica

BLOCK_TOKENS = 16
TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0)
ITL_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LONG_BUCKETS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)
IDLE_SHARE_OF_POWER, BUSY_SHARE_OF_POWER = 0.18, 0.6
IDLE_TEMPERATURE_C, TEMPERATURE_SPAN_C = 30.0, 45.0
HW_THERMAL_SLOWDOWN = 0x40
THROTTLED_TEMPERATURE_C = 89.0


@dataclass(slots=True)
class Histogram:
    """A Prometheus histogram whose observations carry a weight."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, weight: int = 1) -> None:
        """Count a value `weight` times."""
        self.counts[bisect_left(self.bounds, value)] += weight
        self.total += value * weight

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its exposition."""
        yield f"# TYPE {name} histogram"
        cumulated = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            cumulated += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {cumulated}'
        yield f"{name}_count{{{labels}}} {cumulated}"
        yield f"{name}_sum{{{labels}}} {self.total}"


@dataclass(slots=True)
class Latencies:
    """What an engine measures of its own requests."""

    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BUCKETS_S))
    itl: Histogram = field(default_factory=lambda: Histogram(ITL_BUCKETS_S))
    queue: Histogram = field(default_factory=lambda: Histogram(LONG_BUCKETS_S))
    e2e: Histogram = field(default_factory=lambda: Histogram(LONG_BUCKETS_S))
    finished: int = 0


def engine_page(model: str, replica: Replica, latencies: Latencies) -> str:
    """vLLM V1's `/metrics`."""
    labels = f'engine="0",model_name="{model}"'
    blocks = replica.gpu.kv_tokens // BLOCK_TOKENS
    gauges = {
        "vllm:num_requests_running": replica.running,
        "vllm:num_requests_waiting": len(replica.waiting),
        "vllm:kv_cache_usage_perc": replica.kv_used / replica.gpu.kv_tokens,
    }
    counters = {
        "vllm:num_preemptions_total": replica.preemptions,
        "vllm:prompt_tokens_total": replica.prompt_tokens_total,
        "vllm:generation_tokens_total": replica.output_tokens_total,
    }
    lines: list[str] = []
    for kind, values in (("gauge", gauges), ("counter", counters)):
        for name, value in values.items():
            lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
    lines += [
        "# TYPE vllm:cache_config_info gauge",
        f'vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",engine="0",num_gpu_blocks="{blocks}"}} 1.0',
        "# TYPE vllm:request_success_total counter",
        f'vllm:request_success_total{{{labels},finished_reason="length"}} {latencies.finished}',
    ]
    lines += latencies.ttft.lines("vllm:time_to_first_token_seconds", labels)
    lines += latencies.itl.lines("vllm:inter_token_latency_seconds", labels)
    lines += latencies.queue.lines("vllm:request_queue_time_seconds", labels)
    lines += latencies.e2e.lines("vllm:e2e_request_latency_seconds", labels)
    return "\n".join(lines) + "\n"


def gpu_page(name: str, gpu: GpuType, faults: Faults, busy: float) -> str:
    """The DCGM exporter's page for one GPU that was busy for the share `busy` of the last second."""
    labels = f'gpu="0",UUID="GPU-fake-{name}",device="nvidia0",modelName="{gpu.product}",Hostname="{name}"'
    share = IDLE_SHARE_OF_POWER + (BUSY_SHARE_OF_POWER - IDLE_SHARE_OF_POWER) * busy
    throttled = faults.throttle > 1
    cool_c = IDLE_TEMPERATURE_C + TEMPERATURE_SPAN_C * share
    values = {
        "DCGM_FI_DEV_SM_CLOCK": gpu.max_sm_clock_mhz / faults.throttle,
        "DCGM_FI_DEV_GPU_TEMP": THROTTLED_TEMPERATURE_C if throttled else cool_c,
        "DCGM_FI_DEV_POWER_USAGE": gpu.power_w * share / faults.throttle,
        "DCGM_FI_DEV_GPU_UTIL": 100 * busy,
        "DCGM_FI_DEV_XID_ERRORS": faults.xid,
        "DCGM_FI_DEV_FB_USED": 0.9 * gpu.memory_mib,
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": HW_THERMAL_SLOWDOWN if throttled else 0,
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 0,
        "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0,
    }
    lines: list[str] = []
    for metric, value in values.items():
        lines += [f"# TYPE {metric} gauge", f"{metric}{{{labels}}} {value}"]
    return "\n".join(lines) + "\n"
