"""GPUs as the driver's library tells them, with a library that the test makes up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gpuxds.cli.agent.nvml import GB, Nvml
from gpuxds.errors import SignalError
from gpuxds.signals.heartbeat import GpuBeat

pynvml = pytest.importorskip("pynvml")


@dataclass
class FakeGpu:
    """What one GPU would say; a name in `mute` it cannot tell."""

    clock_mhz: int = 1980
    errors: int = 0
    remap_failed: int = 0
    mute: set[str] = field(default_factory=set)
    lost: bool = False
    xids: deque[int] = field(default_factory=deque)


class FakeNvml:
    """nvidia-ml-py's module, as far as it is used, over GPUs that the test changes."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
        self.nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError
        self.driver: int | None = None
        """An NVML error code that every call ends with; None: the driver works."""
        self.opened = 0

    def answer(self, gpu: FakeGpu, name: str, value: Any) -> Any:
        if gpu.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if name in gpu.mute:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlInit(self) -> None:
        if self.driver is not None:
            raise pynvml.NVMLError(self.driver)
        self.opened += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.driver is not None:
            raise pynvml.NVMLError(self.driver)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.answer(self.gpus[index], "handle", self.gpus[index])  # type: ignore[no-any-return]

    def nvmlEventSetCreate(self) -> list[FakeGpu]:
        return []

    def nvmlDeviceRegisterEvents(self, gpu: FakeGpu, kind: int, events: list[FakeGpu]) -> None:
        events.append(self.answer(gpu, "xid", gpu))

    def nvmlEventSetWait_v2(self, events: list[FakeGpu], timeout_ms: int) -> Any:
        assert timeout_ms == 0, "a reading waits for no event"
        if not events[0].xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventType=self.nvmlEventTypeXidCriticalError, eventData=events[0].xids.popleft())

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return str(self.answer(gpu, "name", "NVIDIA H100 80GB HBM3"))

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        return self.answer(gpu, "utilisation", SimpleNamespace(gpu=97, memory=40))

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        return self.answer(gpu, "memory", SimpleNamespace(total=80 * GB, used=72 * GB, free=8 * GB))

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        return self.answer(gpu, "temperature", 71)  # type: ignore[no-any-return]

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        return self.answer(gpu, "power", 612_500)  # type: ignore[no-any-return]

    def nvmlDeviceGetClockInfo(self, gpu: FakeGpu, kind: int) -> int:
        return self.answer(gpu, "clock", gpu.clock_mhz)  # type: ignore[no-any-return]

    def nvmlDeviceGetMaxClockInfo(self, gpu: FakeGpu, kind: int) -> int:
        return self.answer(gpu, "max_clock", 1980)  # type: ignore[no-any-return]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: FakeGpu) -> int:
        return self.answer(gpu, "throttle", 0x4)  # type: ignore[no-any-return]

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, error: int, counter: int) -> int:
        return self.answer(gpu, "ecc", gpu.errors)  # type: ignore[no-any-return]

    def nvmlDeviceGetRemappedRows(self, gpu: FakeGpu) -> tuple[int, int, int, int]:
        return self.answer(gpu, "remap", (0, 0, 0, gpu.remap_failed))  # type: ignore[no-any-return]


def gpus_of(library: FakeNvml, *indices: int) -> Nvml:
    return Nvml(indices, lambda: library)


def why_not(gpus: Nvml) -> str:
    with pytest.raises(SignalError) as told:
        gpus.read()
    return str(told.value)


def test_everything_the_stand_in_has_is_in_the_real_library() -> None:
    names = [name for name in dir(FakeNvml()) if name.lower().startswith("nvml")]
    assert len(names) > 15
    assert [name for name in names if not hasattr(pynvml, name)] == []


def test_a_gpu_says_all_it_knows_in_our_units() -> None:
    (gpu,) = gpus_of(FakeNvml(FakeGpu())).read()
    assert gpu == GpuBeat(
        model="NVIDIA H100 80GB HBM3", utilisation=0.97, memory_used_gb=72.0, memory_total_gb=80.0,
        temperature_c=71, power_w=612.5, sm_clock_ratio=1.0, throttle_bits=4, xid=0, ecc_fatal=False,
    )  # fmt: skip


def test_what_a_gpu_cannot_tell_is_unknown_and_never_zero() -> None:
    silent = {"xid", "name", "utilisation", "memory", "temperature", "power", "clock", "throttle", "ecc", "remap"}
    (gpu,) = gpus_of(FakeNvml(FakeGpu(mute=silent))).read()
    assert gpu == GpuBeat()


def test_the_clock_is_held_against_the_highest_it_can_have() -> None:
    assert gpus_of(FakeNvml(FakeGpu(clock_mhz=990))).read()[0].sm_clock_ratio == 0.5
    assert gpus_of(FakeNvml(FakeGpu(mute={"max_clock"}))).read()[0].sm_clock_ratio is None


@pytest.mark.parametrize(
    ("xids", "told"),
    [
        ([], 0),
        ([31], 31),
        ([63, 79, 154], 79),
        ([63, 31, 13], 63),
        ([94, 95], 95),
    ],
    ids=["none", "an application's own", "off the bus", "to be drained", "no longer contained"],
)
def test_xids_are_followed_and_the_gravest_stays(xids: list[int], told: int) -> None:
    gpu = FakeGpu()
    gpus = gpus_of(FakeNvml(gpu))
    assert gpus.read()[0].xid == 0
    gpu.xids.extend(xids)
    assert gpus.read()[0].xid == told
    gpu.xids.append(31)
    assert gpus.read()[0].xid == told or told == 0


@pytest.mark.parametrize(
    ("gpu", "fatal"),
    [
        (FakeGpu(errors=1), True),
        (FakeGpu(remap_failed=1), True),
        (FakeGpu(mute={"ecc"}), False),
        (FakeGpu(mute={"ecc"}, remap_failed=1), True),
    ],
    ids=["an uncorrectable error", "a failed remap", "only remaps are counted", "and one failed"],
)
def test_memory_is_broken_by_errors_or_by_a_remap_that_failed(gpu: FakeGpu, fatal: bool) -> None:
    assert gpus_of(FakeNvml(gpu)).read()[0].ecc_fatal is fatal


def test_a_gpu_that_fell_off_the_bus_is_told_as_xid_79_beside_one_that_is_well() -> None:
    lost = FakeGpu()
    gpus = gpus_of(FakeNvml(FakeGpu(), lost))
    gpus.read()
    lost.lost = True
    well, gone = gpus.read()
    assert well.xid == 0
    assert gone == GpuBeat(model="NVIDIA H100 80GB HBM3", xid=79)
    assert gpus_of(FakeNvml(lost)).read() == (GpuBeat(xid=79),)


def test_only_the_gpus_asked_for_are_read_and_one_that_is_not_there_is_named() -> None:
    library = FakeNvml(FakeGpu(clock_mhz=1), FakeGpu(clock_mhz=2))
    assert len(gpus_of(library, 1).read()) == 1
    assert "no GPU 2, 5; this host has 2" in why_not(gpus_of(library, 0, 2, 5))
    assert "knows none" in why_not(gpus_of(FakeNvml()))


def test_a_gpu_this_user_may_not_open_is_named() -> None:
    assert "/dev/nvidia0" in why_not(gpus_of(FakeNvml(FakeGpu(mute={"handle"}))))


def test_without_the_package_or_the_driver_it_says_what_is_missing() -> None:
    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'pynvml'")

    assert "pip install 'gpuxds[agent]'" in why_not(Nvml((), absent))
    library = FakeNvml(FakeGpu())
    library.driver = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert "no NVIDIA driver" in why_not(gpus_of(library))


def test_a_driver_that_is_loaded_later_or_again_is_found() -> None:
    library = FakeNvml(FakeGpu())
    gpus = gpus_of(library)
    library.driver = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    why_not(gpus)
    library.driver = None
    assert len(gpus.read()) == 1
    library.driver = pynvml.NVML_ERROR_UNINITIALIZED
    assert "does not answer" in why_not(gpus)
    library.driver = None
    assert len(gpus.read()) == 1
    assert library.opened == 2
