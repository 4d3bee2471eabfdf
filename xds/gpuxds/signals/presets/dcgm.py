"""DCGM exporter: hardware health and speed. Utilisation and framebuffer are read for people, never as load.

What an operator must know to trust this file:
- `DCGM_FI_DEV_XID_ERRORS` is the last XID and never clears, so codes that ask for a drain count when they
  appear, not when they merely stand there. Codes that mean the GPU is out count at first sight too: it is.
- A later harmless XID overwrites a fatal one, so a fatal one is remembered until the page shows 0.
- XIDs of applications (13, 31, 43, 45) are in neither list and change nothing.
- The SM clock says something about speed only while a slowdown bit is set; idle GPUs clock down by design.
- Values of 9.2e18 are blanks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuxds.errors import SignalError
from gpuxds.signals.model import Signal
from gpuxds.signals.parser import BLANK, Sample, scan

UTIL = b"DCGM_FI_DEV_GPU_UTIL"
TEMPERATURE = b"DCGM_FI_DEV_GPU_TEMP"
POWER = b"DCGM_FI_DEV_POWER_USAGE"
CLOCK = b"DCGM_FI_DEV_SM_CLOCK"
XID = b"DCGM_FI_DEV_XID_ERRORS"
XID_COUNT = b"DCGM_EXP_XID_ERRORS_COUNT"
REASONS = (b"DCGM_FI_DEV_CLOCKS_EVENT_REASONS", b"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")
ECC = b"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"
REMAP_FAILURE = b"DCGM_FI_DEV_ROW_REMAP_FAILURE"
NAMES = (UTIL, TEMPERATURE, POWER, CLOCK, XID, XID_COUNT, *REASONS, ECC, REMAP_FAILURE)

HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x8, 0x20, 0x40, 0x80
SLOWDOWN_BITS = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE
"""NVML clock event reasons that slow a GPU against its will; 0x4, the power cap, is normal at full load."""

Page = Mapping[bytes, dict[str, list[Sample]]]
"""Name → GPU → its samples."""


@dataclass(slots=True)
class GpuState:
    """What is remembered of one GPU."""

    highest_clock_mhz: float = 0.0
    last_xid: int | None = None
    out: int = 0
    drain: int | None = None
    """None: a code that asks for a drain stood on the first page; whether it is new is not known."""


@dataclass(slots=True)
class GpuReader:
    """Reads the pages of one exporter for one endpoint."""

    select: Mapping[str, str]
    """Labels of the endpoint's GPUs; empty: all on the page. `Hostname` also matches `hostname`."""
    out_xids: frozenset[int]
    drain_xids: frozenset[int]
    gpus: dict[str, GpuState] = field(default_factory=lambda: defaultdict(GpuState))

    def read(self, page: bytes, at: float) -> dict[Signal, float]:
        """Signals of one page. Raises SignalError when it has no DCGM series at all."""
        del at  # every value is true at the time of the page
        found = scan(page, NAMES)
        if not found:
            raise SignalError("no DCGM series on the page; is this a DCGM exporter?")
        by_gpu = {name: self.group(samples) for name, samples in found.items()}
        seen = sorted({gpu for groups in by_gpu.values() for gpu in groups})
        signals = {Signal.GPUS_SEEN: float(len(seen))}
        if not seen:
            return signals
        signals |= gauges(by_gpu)
        clocks = [ratio for gpu in seen if (ratio := self.clock_ratio(gpu, by_gpu)) is not None]
        if clocks:
            signals[Signal.SM_CLOCK_RATIO] = min(clocks)
        for gpu in seen:
            self.note_xids(gpu, by_gpu)
        signals[Signal.XID_OUT] = float(max(self.gpus[gpu].out for gpu in seen))
        asking = [self.gpus[gpu].drain for gpu in seen]
        if None not in asking or any(asking):
            signals[Signal.XID_DRAIN] = float(max(code or 0 for code in asking))
        return signals

    def group(self, samples: list[Sample]) -> dict[str, list[Sample]]:
        """The endpoint's samples by GPU, blanks left out."""
        groups: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            labels = {name.lower(): value for name, value in sample.labels.items()}
            wanted = all(labels.get(name.lower()) == value for name, value in self.select.items())
            if wanted and abs(sample.value) < BLANK:
                groups[labels.get("uuid") or labels.get("gpu", "")].append(sample)
        return groups

    def clock_ratio(self, gpu: str, page: Page) -> float | None:
        """SM clock over the highest seen of this GPU."""
        samples = page.get(CLOCK, {}).get(gpu)
        if not samples:
            return None
        state = self.gpus[gpu]
        state.highest_clock_mhz = max(state.highest_clock_mhz, samples[0].value)
        return samples[0].value / state.highest_clock_mhz if state.highest_clock_mhz > 0 else None

    def note_xids(self, gpu: str, page: Page) -> None:
        """Remember fatal XIDs, notice new ones that ask for a drain, forget both when the page shows 0."""
        state = self.gpus[gpu]
        counted = {
            code_of(s.labels.get("xid", "")) for s in page.get(XID_COUNT, {}).get(gpu, []) if s.value > 0
        } - {0}
        samples = page.get(XID, {}).get(gpu)
        last = int(samples[0].value) if samples and math.isfinite(samples[0].value) else None
        if last == 0 and not counted:
            state.out = state.drain = 0
        fatal = counted & self.out_xids or ({last} & self.out_xids if last else set())
        if fatal:
            state.out = max(fatal)
        appeared = last is not None and state.last_xid is not None and last != state.last_xid
        new = {last} if appeared and last is not None else set()
        asking = (counted | new) & self.drain_xids
        if asking:
            state.drain = max(asking)
        elif state.drain is None and last not in self.drain_xids:
            state.drain = 0
        state.last_xid = last


def code_of(text: str) -> int:
    """An XID in a label; 0 for anything that is not one."""
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def gauges(page: Page) -> dict[Signal, float]:
    """Signals that need no memory."""

    def values(name: bytes) -> list[float]:
        return [sample.value for samples in page.get(name, {}).values() for sample in samples]

    signals: dict[Signal, float] = {}
    if found := values(UTIL):
        signals[Signal.GPU_UTIL] = max(found) / 100
    if found := values(TEMPERATURE):
        signals[Signal.TEMPERATURE_C] = max(found)
    if found := values(POWER):
        signals[Signal.POWER_W] = sum(found)
    reasons = next((found for name in REASONS if (found := values(name))), [])
    if reasons:
        bits = 0
        for value in reasons:
            bits |= int(value)
        signals[Signal.THROTTLE_BITS] = float(bits)
    fatal = [*values(ECC), *values(REMAP_FAILURE)]
    if fatal:
        signals[Signal.ECC_FATAL] = 1.0 if max(fatal) > 0 else 0.0
    return signals
