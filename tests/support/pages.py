"""Metric pages as engines print them, made with the library they print them with."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

HISTOGRAMS = (
    "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds",
    "vllm:request_inference_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
    )  # fmt: skip
BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)


def vllm_page(seed: int = 1, engines: int = 1, observations: int = 50) -> bytes:
    """A page with the series of vLLM V1 and much that nobody reads; about 26 kB for one engine."""
    rng, registry = random.Random(seed), CollectorRegistry()
    labels = ["engine", "model_name"]

    def gauge(name: str) -> Gauge:
        return Gauge(name, f"Help of {name}, with = and {{braces}} in it.", labels, registry=registry)

    running, waiting, kv = (
        gauge(f"vllm:{n}") for n in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    )
    by_reason = Gauge("vllm:num_requests_waiting_by_reason", "A trap.", [*labels, "reason"], registry=registry)
    info = Gauge(
        "vllm:cache_config_info", "Info.", ["block_size", "engine", "num_gpu_blocks", "path"], registry=registry
    )
    counters = {
        name: Counter(f"vllm:{name}", name, labels, registry=registry)
        for name in (
            "prompt_tokens",
            "generation_tokens",
            "num_preemptions",
            "prefix_cache_queries",
            "prefix_cache_hits",
        )
    }
    success = Counter("vllm:request_success", "Finished.", [*labels, "finished_reason"], registry=registry)
    histograms = [Histogram(name, name, labels, buckets=BUCKETS, registry=registry) for name in HISTOGRAMS]
    for number in range(engines):
        own = (str(number), 'meta/"llama" \\ 8B')
        running.labels(*own).set(rng.randrange(200))
        waiting.labels(*own).set(rng.randrange(50))
        kv.labels(*own).set(rng.random())
        by_reason.labels(*own, "capacity").set(12345)
        info.labels("16", str(number), "27888", 'C:\\models\\"x"\n').set(1)
        for counter in counters.values():
            counter.labels(*own).inc(rng.randrange(10**7))
        for why in ("stop", "length", "abort"):
            success.labels(*own, why).inc(rng.randrange(1000))
        for histogram in histograms:
            for _ in range(observations):
                histogram.labels(*own).observe(rng.lognormvariate(-1, 1.5))
    return generate_latest(registry)


DCGM = """# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{{gpu="0",UUID="GPU-0",Hostname="n1"}} {clock}
DCGM_FI_DEV_SM_CLOCK{{gpu="1",UUID="GPU-1",Hostname="n1"}} 1980
DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-0",Hostname="n1"}} 97
DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="GPU-1",Hostname="n1"}} 9223372036854775794
DCGM_FI_DEV_GPU_TEMP{{gpu="0",UUID="GPU-0",Hostname="n1"}} 71
DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-0",Hostname="n1"}} 612.5
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="GPU-1",Hostname="n1"}} 100.5
DCGM_FI_DEV_XID_ERRORS{{gpu="0",UUID="GPU-0",Hostname="n1",err_code="{xid}"}} {xid}
DCGM_FI_DEV_XID_ERRORS{{gpu="1",UUID="GPU-1",Hostname="n1",err_code="0"}} 0
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{{gpu="0",UUID="GPU-0",Hostname="n1"}} {reasons}
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{gpu="0",UUID="GPU-0",Hostname="n1"}} {ecc}
"""


def dcgm_page(clock: float = 1980, xid: int = 0, reasons: int = 0, ecc: int = 0) -> bytes:
    """A DCGM exporter's page of two GPUs."""
    return DCGM.format(clock=clock, xid=xid, reasons=reasons, ecc=ecc).encode()
