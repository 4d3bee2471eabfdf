"""What a GPU host says of itself: the body of a heartbeat, and the signals it means.

The same signals as a scraped page gives, so that a decision does not care who told. What is not said is not known,
which is not 0. Totals count since the engine started.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gpuxds.policy.model import LARGEST_CAPACITY
from gpuxds.signals.model import Signal

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Said(BaseModel):
    """Nothing unknown, nothing mutable, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class GpuBeat(Said):
    """One GPU of the endpoint."""

    model: Name | None = None
    """As its driver names it; for people."""
    utilisation: Share | None = None
    """Share of the time in which it did anything; for people."""
    memory_used_gb: Amount | None = None
    """For people."""
    memory_total_gb: Amount | None = None
    """For people."""
    temperature_c: Amount | None = None
    """Of the core."""
    power_w: Amount | None = None
    """Drawn now."""
    sm_clock_ratio: Share | None = None
    """SM clock now over the highest it can have."""
    throttle_bits: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    """NVML clock event reasons."""
    xid: Annotated[int, Field(ge=0, lt=100_000)] | None = None
    """The last XID since the driver was loaded or it was cleared; 0: none."""
    ecc_fatal: bool | None = None
    """A double-bit error or a failed row remap."""


class Heartbeat(Said):
    """Body of a heartbeat. Everything is optional; what is absent or null is not known."""

    running: Count | None = None
    """Requests being decoded."""
    waiting: Count | None = None
    """Requests queued in the engine."""
    capacity: Annotated[int, Field(ge=1, le=LARGEST_CAPACITY)] | None = None
    """Requests it can run at once; overrules what the endpoint was declared with while it is fresh."""
    kv_usage: Share | None = None
    """Share of the KV cache in use."""
    gpus: Annotated[list[GpuBeat], Field(max_length=64)] | None = None
    """The endpoint's GPUs, all of them; one that is missing is taken for broken."""
    succeeded: Count | None = None
    """Requests answered since the engine started."""
    failed: Count | None = None
    """Requests that failed since the engine started."""
    mean_s: Amount | None = None
    """Mean end-to-end seconds of recent requests."""
    model: Name | None = None
    """The model it serves."""
    adapters: Annotated[list[Name], Field(max_length=128)] | None = None
    """LoRA adapters it serves."""


def signals_of(beat: Heartbeat, out_xids: Collection[int], drain_xids: Collection[int]) -> dict[Signal, float]:
    """The signals of a heartbeat; `out_xids` and `drain_xids` are the policy's."""
    said = {
        Signal.RUNNING: beat.running,
        Signal.WAITING: beat.waiting,
        Signal.CAPACITY: beat.capacity,
        Signal.KV_USAGE: beat.kv_usage,
        Signal.FAILURES_TOTAL: beat.failed,
        Signal.LATENCY_S: beat.mean_s,
        Signal.LAST_LATENCY_S: beat.mean_s,
    }
    if beat.succeeded is not None:
        said[Signal.REQUESTS_TOTAL] = beat.succeeded + (beat.failed or 0)
    found = {signal: float(value) for signal, value in said.items() if value is not None}
    return found if beat.gpus is None else found | hardware(beat.gpus, out_xids, drain_xids)


def hardware(gpus: list[GpuBeat], out_xids: Collection[int], drain_xids: Collection[int]) -> dict[Signal, float]:
    """The GPUs as one endpoint: the hottest, the slowest, the sum of power, and whatever any of them reports."""
    found = {Signal.GPUS_SEEN: float(len(gpus))}

    def known(name: str) -> list[float]:
        return [float(value) for gpu in gpus if (value := getattr(gpu, name)) is not None]

    for signal, name, combine in (
        (Signal.GPU_UTIL, "utilisation", max),
        (Signal.TEMPERATURE_C, "temperature_c", max),
        (Signal.POWER_W, "power_w", sum),
        (Signal.SM_CLOCK_RATIO, "sm_clock_ratio", min),
        (Signal.ECC_FATAL, "ecc_fatal", max),
    ):
        if values := known(name):
            found[signal] = float(combine(values))
    if bits := [gpu.throttle_bits for gpu in gpus if gpu.throttle_bits is not None]:
        every = 0
        for value in bits:
            every |= value
        found[Signal.THROTTLE_BITS] = float(every)
    if codes := [gpu.xid for gpu in gpus if gpu.xid is not None]:
        found[Signal.XID_OUT] = float(max((code for code in codes if code in out_xids), default=0))
        found[Signal.XID_DRAIN] = float(max((code for code in codes if code in drain_xids), default=0))
    return found
