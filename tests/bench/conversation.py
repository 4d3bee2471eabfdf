"""Processes of a benchmark that speak in lines of JSON: servers, clients, peers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT_BYTES = 64 * 1024 * 1024
STOP_S = 20.0


class Partner:
    """A process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self.said: list[dict[str, Any]] = []
        self.more = asyncio.Event()
        self.listener = asyncio.ensure_future(self.listen())

    async def listen(self) -> None:
        """Take in lines until it ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.startswith(b"{"):
                self.said.append(json.loads(line))
                self.more.set()
        self.more.set()

    async def answer(self, key: str, deadline_s: float = 60.0) -> Any:
        """The first value it said, or will say, under a key. Raises TimeoutError, or RuntimeError when it ended."""
        async with asyncio.timeout(deadline_s):
            while True:
                for document in self.said:
                    if key in document:
                        return document[key]
                if self.listener.done():
                    raise RuntimeError(f"process {self.pid} ended before it said {key!r}")
                self.more.clear()
                await self.more.wait()

    def all(self, key: str) -> list[dict[str, Any]]:
        """Everything it said so far that has this key."""
        return [document for document in self.said if key in document]

    def hush(self) -> None:
        """End its standard input, which ends its work."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@asynccontextmanager
async def started(*command: str | Path, **environment: str) -> AsyncIterator[Partner]:
    """Start a process; it is ended at the end, whatever state it is in."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LIMIT_BYTES,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip
    partner = Partner(process)
    try:
        yield partner
    finally:
        partner.hush()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await partner.listener
