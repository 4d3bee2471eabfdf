"""Reads GPUs through NVML, the driver's own library, with nvidia-ml-py.

What a GPU or a driver cannot tell (memory errors without ECC, utilisation under MIG) is None, one value at a time.
XIDs are events, not values: they are followed from the first reading on, and a graver one is not covered by those
that follow it (154 comes after most fatal ones). A GPU that fell off the bus gives no values and no events any
more; it is reported as XID 79, the driver's own code for that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gpuxds.errors import SignalError
from gpuxds.policy.model import HealthSpec
from gpuxds.signals.heartbeat import GpuBeat

GB = 2**30
"""The GB of the name `H100 80GB`."""
OFF_THE_BUS = 79
GRAVE = HealthSpec()
"""Which XIDs are graver than others; what becomes of them is for the policy of the server to say."""
MOST_EVENTS = 1000
"""Taken in one reading; a storm of events does not hold it up."""
REMAP_FAILED = 3
"""Index in the answer of nvmlDeviceGetRemappedRows."""


class Gpus(Protocol):
    """The GPUs of a host."""

    def read(self) -> tuple[GpuBeat, ...]:
        """Each of them, now. Raises SignalError with the reason when there are none to read."""


class Lost(Exception):
    """The GPU is not there any more."""


@dataclass(slots=True)
class Device:
    """What is kept of one GPU."""

    handle: Any
    events: Any
    """NVML event set of its XIDs; None when it has none."""
    model: str | None
    xid: int = 0


def gravity(xid: int) -> tuple[int, int]:
    """Orders XIDs, the gravest last."""
    return (2 if xid in GRAVE.quarantine_xids else 1 if xid in GRAVE.drain_xids else 0, xid)


class Nvml:
    """The driver's view. `indices` as nvidia-smi numbers GPUs; empty: all."""

    def __init__(self, indices: tuple[int, ...] = (), load: Callable[[], Any] | None = None) -> None:
        self.indices = indices
        self.load = load or (lambda: importlib.import_module("pynvml"))
        self.nvml: Any = None
        """The module, once its library is initialised."""
        self.devices: dict[int, Device] = {}

    def read(self) -> tuple[GpuBeat, ...]:
        """Each GPU, now. Raises SignalError with the reason when there are none to read."""
        nvml = self.opened()
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.nvml = None
            self.devices.clear()
            raise SignalError(f"the NVIDIA driver does not answer: {error}") from error
        missing = [index for index in self.indices if index >= count]
        if missing or not count:
            there = f"this host has {count}" if count else "the NVIDIA driver knows none"
            raise SignalError(f"no GPU {', '.join(map(str, missing))}; {there}" if missing else f"no GPU; {there}")
        return tuple(self.reading(index) for index in self.indices or range(count))

    def opened(self) -> Any:
        """The initialised module. Raises SignalError."""
        if self.nvml is not None:
            return self.nvml
        try:
            nvml = self.load()
        except ImportError as error:
            raise SignalError(
                "nvidia-ml-py is not installed; install it with: pip install 'gpuxds[agent]'"
            ) from error
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise SignalError(f"no NVIDIA driver on this host: {error}") from error
        self.nvml = nvml
        return nvml

    def reading(self, index: int) -> GpuBeat:
        """One GPU."""
        try:
            device = self.devices.get(index)
            if device is None:
                device = self.devices[index] = self.device(index)
            return self.values(device)
        except Lost:
            known = self.devices.get(index)
            return GpuBeat(model=known.model if known else None, xid=OFF_THE_BUS)

    def device(self, index: int) -> Device:
        """Begin to follow a GPU. Raises Lost."""
        nvml = self.nvml
        handle = self.ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            raise SignalError(f"GPU {index} cannot be opened; may this user read /dev/nvidia{index}?")
        events = self.ask(nvml.nvmlEventSetCreate)
        if events is not None:
            try:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
            except nvml.NVMLError:
                events = None
        return Device(handle, events, self.ask(nvml.nvmlDeviceGetName, handle))

    def values(self, device: Device) -> GpuBeat:
        """What a GPU says. Raises Lost."""
        nvml, ask, handle = self.nvml, self.ask, device.handle
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return GpuBeat(
            model=device.model,
            utilisation=None if rates is None else rates.gpu / 100,
            memory_used_gb=None if memory is None else memory.used / GB,
            memory_total_gb=None if memory is None else memory.total / GB,
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            sm_clock_ratio=self.clock_ratio(device),
            throttle_bits=ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
            xid=self.last_xid(device),
            ecc_fatal=self.ecc_fatal(device),
        )

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer; None when GPU or driver have none. Raises Lost."""
        try:
            return question(*arguments)
        except self.nvml.NVMLError as error:
            if error.value == self.nvml.NVML_ERROR_GPU_IS_LOST:
                raise Lost from error
            return None

    def clock_ratio(self, device: Device) -> float | None:
        """SM clock over the highest it can have."""
        nvml = self.nvml
        now_mhz, most_mhz = (
            self.ask(question, device.handle, nvml.NVML_CLOCK_SM)
            for question in (nvml.nvmlDeviceGetClockInfo, nvml.nvmlDeviceGetMaxClockInfo)
        )
        return min(1.0, now_mhz / most_mhz) if now_mhz is not None and most_mhz else None

    def last_xid(self, device: Device) -> int | None:
        """Takes the events that came since the last reading."""
        nvml = self.nvml
        if device.events is None:
            return None
        for _ in range(MOST_EVENTS):
            try:
                event = nvml.nvmlEventSetWait_v2(device.events, 0)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                    raise Lost from error
                break
            if event.eventType == nvml.nvmlEventTypeXidCriticalError:
                device.xid = max(device.xid, int(event.eventData), key=gravity)
        return device.xid

    def ecc_fatal(self, device: Device) -> bool | None:
        """Whether memory is broken beyond correction; None when the GPU does not count that."""
        nvml = self.nvml
        errors = self.ask(
            nvml.nvmlDeviceGetTotalEccErrors,
            device.handle,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
        )
        remapped = self.ask(nvml.nvmlDeviceGetRemappedRows, device.handle)
        if errors is None and remapped is None:
            return None
        return bool(errors) or bool(remapped is not None and remapped[REMAP_FAILED])
