"""The whole server as users run it, `gpuxds serve`: how long until it pushes, and what endpoints and streams weigh.

Memory per endpoint is the difference between a large and a small fleet, both scraped once a second; memory per idle
stream the difference that a thousand connected proxies make when nothing is published.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.bench_push import OURS, clients
from bench.conversation import HERE, started
from bench.fleets import policy_text
from bench.tables import FIGURES, Table, figure
from bench.usage import cpu_s, memory_mb
from gpuxds.cli.demo.processes import Processes
from support.stack import free_ports

SMALL, LARGE = 100, 1_000
IDLE_STREAMS = 1_000
SETTLE_S = 10.0
COMMAND = "make bench ARGS=start"
NOTE = "Endpoints are scraped once a second. The start is that of the process, imports and policy included."


@asynccontextmanager
async def served(count: int) -> AsyncIterator[tuple[int, float]]:
    """`gpuxds serve` over a fleet that answers: its process id, and the seconds until a proxy was pushed to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with contextlib.AsyncExitStack() as cleanup:
            pages = await cleanup.enter_async_context(started(sys.executable, HERE / "page_server.py"))
            (folder / "policy.yaml").write_text(policy_text(count, int(await pages.answer("port"))))
            xds, admin = free_ports(2)
            processes = Processes(folder)
            cleanup.push_async_callback(processes.stop_all)
            client = await cleanup.enter_async_context(clients(xds, 1))
            begin = time.time()
            await processes.start(
                "gpuxds", sys.executable, "-m", "gpuxds", "serve", str(folder / "policy.yaml"),
                "--xds", f"127.0.0.1:{xds}", "--admin", f"127.0.0.1:{admin}",
                "--state-dir", str(folder / "state"), "--log-level", "error",
            )  # fmt: skip
            await client.answer("configured_s", 60)
            yield processes.running["gpuxds"].pid, time.time() - begin


async def start() -> AsyncIterator[Table]:
    """Start, memory per endpoint, memory per stream."""
    async with served(SMALL) as (pid, small_s):
        await asyncio.sleep(SETTLE_S)
        small_mb = memory_mb(pid)
    async with served(LARGE) as (pid, large_s):
        await asyncio.sleep(SETTLE_S)
        large_mb, before = memory_mb(pid), cpu_s(pid)
        await asyncio.sleep(SETTLE_S)
        cores = (cpu_s(pid) - before) / SETTLE_S
    rows = (
        figure(
            f"start to first push, {LARGE:,} endpoints", large_s, "s", 3, f"{small_s:.1f} s with {SMALL} endpoints"
        ),
        figure(
            "memory per endpoint", 1000 * (large_mb - small_mb) / (LARGE - SMALL), "kB", 10,
            f"{small_mb:.0f} MB with {SMALL}, {large_mb:.0f} MB with {LARGE:,}",
        ),
        figure("memory per idle stream", await per_stream_kb(), "kB", 100),
        figure(f"CPU of the whole server, {LARGE:,} endpoints, 1 proxy", cores, "cores", 1),
    )  # fmt: skip
    yield Table("The whole server", COMMAND, FIGURES, rows, NOTE)


async def per_stream_kb() -> float:
    """What a connected proxy weighs while nothing is published, node of 61 kB and buffers included."""
    async with started(*OURS, str(LARGE), "0") as server:
        port = await server.answer("port")
        before = memory_mb(server.pid)
        async with clients(port, IDLE_STREAMS) as client:
            await client.answer("configured_s")
            await asyncio.sleep(SETTLE_S / 2)
            return 1000 * (memory_mb(server.pid) - before) / IDLE_STREAMS
