"""Reads the GPUs without ever waiting for them longer than a heartbeat can.

A driver whose GPU hangs holds its caller for minutes, in the kernel, where nothing can interrupt it. Each reading
therefore runs in a daemon thread: the loop goes on without it, and the process can end. A reading that is still
under way is not begun a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

from gpuxds.cli.agent.nvml import Gpus
from gpuxds.errors import SignalError
from gpuxds.signals.heartbeat import GpuBeat

Readings = tuple[GpuBeat, ...]
TIMEOUT_S = 2.0


class GpuWatch:
    """The GPUs of this host, read on the side."""

    def __init__(self, gpus: Gpus, timeout_s: float = TIMEOUT_S) -> None:
        self.gpus = gpus
        self.timeout_s = timeout_s
        self.pending: asyncio.Future[Readings] | None = None

    async def read(self) -> Readings:
        """Each GPU, now. Raises SignalError with the reason when there are none to read."""
        if self.pending is None or self.pending.done():
            self.pending = asyncio.get_running_loop().create_future()
            threading.Thread(target=self.work, args=(self.pending,), name="nvml", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.shield(self.pending), self.timeout_s)
        except TimeoutError:
            raise SignalError(
                f"the NVIDIA driver did not answer within {self.timeout_s:g} s; a GPU may hang"
            ) from None

    def work(self, future: asyncio.Future[Readings]) -> None:
        """Read, and tell the loop; runs in a thread."""
        readings, failure = None, None
        try:
            readings = self.gpus.read()
        except SignalError as error:
            failure = error
        except Exception as error:  # a driver that trips a defect of ours costs its GPUs only
            failure = SignalError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            future.get_loop().call_soon_threadsafe(tell, future, readings, failure)


def tell(future: asyncio.Future[Readings], readings: Readings | None, failure: SignalError | None) -> None:
    """The answer is there."""
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(readings or ())
