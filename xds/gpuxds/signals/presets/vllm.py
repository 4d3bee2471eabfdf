"""vLLM V1. One process with data parallelism shows several `engine` series: loads add up, KV usage is the
fullest. `kv_cache_usage_perc` is a share, 0..1, despite its name. With `--disable-log-stats` the page has no
engine series at all, which is not idleness."""

from __future__ import annotations

from gpuxds.signals.model import Signal
from gpuxds.signals.presets import How, Labels, Preset, Row

VLLM = Preset(
    "vllm",
    (
        Row(Signal.RUNNING, How.SUM, ("vllm:num_requests_running",)),
        Row(Signal.WAITING, How.SUM, ("vllm:num_requests_waiting",)),
        Row(Signal.KV_USAGE, How.MAX, ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
        Row(
            Signal.KV_CAPACITY_TOKENS,
            How.LABEL_PRODUCT,
            ("vllm:cache_config_info",),
            labels=("block_size", "num_gpu_blocks"),
        ),
        Row(
            Signal.ASLEEP,
            How.MAX,
            ("vllm:engine_sleep_state",),
            where={"sleep_state": "awake"},
            factor=-1.0,
            offset=1.0,
        ),
        Row(Signal.PREEMPTIONS_RATE, How.RATE, ("vllm:num_preemptions_total", "vllm:num_preemptions")),
        Row(Signal.PROMPT_TOKENS_RATE, How.RATE, ("vllm:prompt_tokens_total",)),
        Row(Signal.OUTPUT_TOKENS_RATE, How.RATE, ("vllm:generation_tokens_total",)),
        Row(Signal.REQUEST_RATE, How.RATE, ("vllm:request_success_total",)),
        Row(Signal.REQUESTS_TOTAL, How.TOTAL, ("vllm:request_success_total",)),
        Row(Signal.TTFT_S, How.MEAN, ("vllm:time_to_first_token_seconds",)),
        Row(Signal.ITL_S, How.MEAN, ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
        Row(Signal.QUEUE_S, How.MEAN, ("vllm:request_queue_time_seconds",)),
        Row(Signal.LATENCY_S, How.MEAN, ("vllm:e2e_request_latency_seconds",)),
        Row(Signal.LAST_LATENCY_S, How.LAST_MEAN, ("vllm:e2e_request_latency_seconds",)),
    ),
    evidence=("vllm:num_requests_running", "vllm:num_requests_waiting"),
    labels=Labels(
        model=("vllm:num_requests_running", "model_name"),
        finished=("vllm:request_success_total", "finished_reason"),
        succeeded=frozenset({"stop", "length"}),
        failed=frozenset({"abort", "error"}),
        adapters=("vllm:lora_requests_info", "running_lora_adapters"),
    ),
)
