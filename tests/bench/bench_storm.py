"""What misbehaves: three thousand proxies that connect at once, and proxies that stop reading.

Stalled clients are a process that is stopped (SIGSTOP) while it holds its connections: their kernel still takes
what fits its buffers, nobody reads. Others share no process with them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

from bench.bench_push import OURS, clients, percentile
from bench.conversation import Partner, started
from bench.tables import FIGURES, Table, figure
from bench.usage import memory_mb
from support.waiting import until

STORM, ENDPOINTS = 3_000, 1_000
STREAMS, STALLED = 900, 100
WINDOW_S = 15.0
CLOSED_WITHIN_S = 90.0
COMMAND = "make bench ARGS=storm"


async def storm() -> AsyncIterator[Table]:
    """Both."""
    rows = [*await at_once(), *await with_stalled()]
    yield Table("Storms and stalled clients", COMMAND, FIGURES, tuple(rows), NOTE)


NOTE = (
    f"{ENDPOINTS:,} endpoints, every weight changes each second. A stream counts as configured when its client has "
    f"read its first answer. Stalled: {STALLED} of {STREAMS + STALLED} streams, stopped with SIGSTOP."
)


async def at_once() -> list[tuple[str, ...]]:
    """All streams connect in the same moment."""
    async with (
        started(*OURS, str(ENDPOINTS), "1.0") as server,
        clients(await server.answer("port"), STORM) as client,
    ):
        seconds = float(await client.answer("configured_s", 120))
        await asyncio.sleep(WINDOW_S / 3)
        peak_mb = memory_mb(server.pid, "VmHWM")
        client.hush()
        errors = await client.answer("errors")
    return [
        figure(f"{STORM:,} streams at once: the last is configured after", seconds, "s", 10),
        figure(f"{STORM:,} streams at once: errors", len(errors), "streams", 0, f"highest memory {peak_mb:.0f} MB"),
    ]


async def with_stalled() -> list[tuple[str, ...]]:
    """p99 of the others before and while a tenth is stalled."""
    async with (
        started(*OURS, str(ENDPOINTS), "1.0") as server,
        clients(await server.answer("port"), STREAMS) as client,
        clients(await server.answer("port"), STALLED) as deaf,
    ):
        await client.answer("configured_s")
        await deaf.answer("configured_s")
        await asyncio.sleep(3.0)
        calm = await window(WINDOW_S)
        before_mb = memory_mb(server.pid)
        os.kill(deaf.pid, signal.SIGSTOP)
        stopped_at = time.time()
        await asyncio.sleep(2.0)
        stalled = await window(WINDOW_S)
        closed_s, highest_mb = await all_closed(server, stopped_at)
        client.hush()
        arrivals = await client.answer("arrivals")
        published = {said["version"]: said["at"] for said in server.all("version")}
    p99_calm, p99_stalled = (p99_of(arrivals, published, *when) for when in (calm, stalled))
    return [
        figure(
            "10 % of clients stalled: p99 of the others moves by", 100 * (p99_stalled / p99_calm - 1), "%", 20,
            f"{1000 * p99_calm:.0f} ms before, {1000 * p99_stalled:.0f} ms while stalled",
        ),
        figure(
            "10 % of clients stalled: memory grows by", highest_mb - before_mb, "MB", 50, f"from {before_mb:.0f} MB"
        ),
        figure("10 % of clients stalled: all of them closed after", closed_s, "s", CLOSED_WITHIN_S),
    ]  # fmt: skip


async def window(seconds: float) -> tuple[float, float]:
    """A stretch of time, as unix seconds."""
    begin = time.time()
    await asyncio.sleep(seconds)
    return begin, time.time()


async def all_closed(server: Partner, since: float) -> tuple[float, float]:
    """Seconds from `since` until only those who read are served, and the highest memory on the way, in MB."""
    highest = 0.0

    def closed() -> bool:
        nonlocal highest
        highest = max(highest, memory_mb(server.pid))
        return bool(server.all("streams")[-1]["streams"] <= STREAMS)

    await until(closed, CLOSED_WITHIN_S + 30, "the stalled streams are closed")
    return time.time() - since, highest


def p99_of(arrivals: dict[str, list[float]], published: dict[str, float], begin: float, end: float) -> float:
    """Of what was published within a stretch of time."""
    versions = [version for version, at in published.items() if begin <= at < end]
    return percentile(sorted(at - published[v] for v in versions for at in arrivals.get(v, ())), 0.99)
