"""The demo's processes: fake GPU servers, Envoy and the control plane, started, killed and always cleaned up.

Each runs in its own session, so that Ctrl-C reaches the demo alone and it ends the others in order. Their
output goes to files in one folder, named when something goes wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

from gpuxds.errors import EnvironmentProblem

STOP_S = 5.0


@dataclass(slots=True)
class Processes:
    """Running processes by name. `stop_all` leaves none behind."""

    folder: Path
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, name: str, *command: str) -> None:
        """Start a process; its output goes to `<folder>/<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )

    def check(self) -> None:
        """Raise EnvironmentProblem when a process that should run has ended, with its last words."""
        for name, process in self.running.items():
            if process.returncode is not None:
                raise EnvironmentProblem(f"{name} ended with status {process.returncode}:\n{self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-8:]) or "  (it said nothing)"

    async def kill(self, name: str) -> None:
        """kill -9: no goodbye."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def stop_all(self) -> None:
        """End every process, politely first."""
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running.values():
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        self.running.clear()


def require_free(ports: dict[int, str]) -> None:
    """Raise EnvironmentProblem when something listens on one of the ports, naming what needs it."""
    for port, purpose in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise EnvironmentProblem(
                    f"port {port} ({purpose}) is taken: {error.strerror}. "
                    f"See who has it with: ss -ltnp 'sport = :{port}', and stop it or wait"
                ) from error
