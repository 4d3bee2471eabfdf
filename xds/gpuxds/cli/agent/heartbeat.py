"""What an agent says, once every few seconds. Every field may be None: not known, which is never 0."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU, now."""

    model: str | None = None
    """As its driver names it, for example `NVIDIA H100 80GB HBM3`."""
    utilisation: float | None = None
    """Share of the last moments in which a kernel ran, 0..1; for people, since it is near 1 under any load."""
    memory_used_gb: float | None = None
    """In units of 2^30 bytes, the GB of the name `H100 80GB`."""
    memory_total_gb: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    sm_clock_ratio: float | None = None
    """SM clock over the highest it can have, 0..1."""
    throttle_bits: int | None = None
    """NVML clock event reasons."""
    xid: int | None = None
    """The gravest XID since the agent started; 0: none."""
    ecc_fatal: bool | None = None
    """An uncorrectable memory error since the driver was loaded, or a row that could not be remapped."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """The engine, now."""

    running: int | None = None
    """Requests."""
    waiting: int | None = None
    kv_usage: float | None = None
    """Share of the KV cache in use, 0..1."""
    succeeded: int | None = None
    """Requests since the engine started."""
    failed: int | None = None
    mean_s: float | None = None
    """Mean end-to-end seconds of the requests that ended last."""
    model: str | None = None
    adapters: tuple[str, ...] | None = None
    """LoRA adapters with running requests."""


def body(engine: EngineReading | None, gpus: tuple[GpuReading, ...] | None, capacity: int | None) -> dict[str, Any]:
    """The JSON of a heartbeat; None: that part cannot be read."""
    return {
        **asdict(engine or EngineReading()),
        "capacity": capacity,
        "gpus": None if gpus is None else [asdict(gpu) for gpu in gpus],
    }
