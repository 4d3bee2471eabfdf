"""From publish to received, over real sockets: our server, and peers, under the same load from the same client.

Server and clients are processes of their own that share the machine. Every stream has its own TCP connection and
acknowledges a response before it is sent the next one; every weight changes once a second. CPU is the server's
alone. A version that a slow stream skipped does not count as received, so `pushes/s` says who keeps up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from bench.conversation import HERE, Partner, started
from bench.tables import Table, against, number
from bench.usage import cpu_s, memory_mb

COLUMNS = ("server", "endpoints × streams", "pushes/s", "MB/s", "CPU, cores", "p50 ms", "p99 ms", "max ms",
           "RSS MB", "configured s", "errors")  # fmt: skip
WARM_UP_S = 3.0
SETTLE_S = 2.0
"""What was published last may still arrive."""
NOTE = "Server and clients share the machine; CPU and RSS (highest) are the server's."
OURS: tuple[str, ...] = (sys.executable, str(HERE / "ads_server.py"))


@dataclass(frozen=True)
class Load:
    """How much."""

    endpoints: int
    streams: int
    seconds: float = 15.0
    every_s: float = 1.0


@dataclass(frozen=True)
class Target:
    """The most that is wanted; None: not stated."""

    cpu: float | None = None
    p99_ms: float | None = None
    rss_mb: float | None = None


NO_TARGET = Target()
MATRIX = (
    (Load(1_000, 1_000), Target(cpu=0.35, p99_ms=300)),
    (Load(10_000, 100), Target(cpu=0.08, p99_ms=150)),
    (Load(10_000, 1_000), Target(cpu=0.6, rss_mb=250)),
)


@dataclass(frozen=True)
class Outcome:
    """What one server did under one load."""

    load: Load
    pushes_per_s: float
    mb_per_s: float
    cpu: float
    """Cores."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    rss_mb: float
    """Highest so far."""
    configured_s: float
    """From the first connection attempt until the last stream had its first answer."""
    errors: int
    publish_ms: float
    """Encoding and handing over, the longest."""

    @property
    def cpu_per_push_ms(self) -> float:
        """The server's CPU for one response to one stream."""
        return 1000 * self.cpu / self.pushes_per_s

    def row(self, server: str, target: Target = NO_TARGET) -> tuple[str, ...]:
        """Its line in a table."""
        return (
            server, f"{self.load.endpoints:,} × {self.load.streams:,}", number(self.pushes_per_s),
            number(self.mb_per_s), against(self.cpu, target.cpu), number(self.p50_ms),
            against(self.p99_ms, target.p99_ms), number(self.max_ms), against(self.rss_mb, target.rss_mb),
            number(self.configured_s), str(self.errors),
        )  # fmt: skip


async def measure(server_command: Sequence[str], load: Load) -> Outcome:
    """Run one server under one load."""
    async with (
        started(*server_command, str(load.endpoints), str(load.every_s)) as server,
        clients(await server.answer("port"), load.streams) as client,
    ):
        configured_s = float(await client.answer("configured_s"))
        await asyncio.sleep(WARM_UP_S)
        begin, cpu_before = time.time(), cpu_s(server.pid)
        await asyncio.sleep(load.seconds)
        end, cpu = time.time(), cpu_s(server.pid) - cpu_before
        rss_mb = memory_mb(server.pid, "VmHWM")
        await asyncio.sleep(SETTLE_S)
        client.hush()
        arrivals = await client.answer("arrivals")
        errors, size = await client.answer("errors"), await client.answer("bytes")
        published = {said["version"]: said for said in server.all("version") if begin <= said["at"] < end}
    delays = sorted(at - published[version]["at"] for version in published for at in arrivals.get(version, ()))
    received = [at for times in arrivals.values() for at in times]
    within = sum(begin <= at < end for at in received)
    return Outcome(
        load,
        pushes_per_s=within / (end - begin),
        mb_per_s=within / (end - begin) * size / len(received) / 1e6,
        cpu=cpu / (end - begin),
        p50_ms=1000 * percentile(delays, 0.5),
        p99_ms=1000 * percentile(delays, 0.99),
        max_ms=1000 * delays[-1],
        rss_mb=rss_mb,
        configured_s=configured_s,
        errors=len(errors),
        publish_ms=1000 * max(said["took_s"] for said in published.values()),
    )


async def push(seconds: float = 15.0) -> AsyncIterator[Table]:
    """The matrix."""
    rows = []
    for load, target in MATRIX:
        outcome = await measure(OURS, dataclasses.replace(load, seconds=seconds))
        rows.append(outcome.row("gpuxds", target))
    yield Table("Push: publish to received", "make bench ARGS=push", COLUMNS, tuple(rows), NOTE)


def clients(port: int, streams: int) -> AbstractAsyncContextManager[Partner]:
    """That many streams, in a process of their own."""
    return started(sys.executable, HERE / "ads_client.py", str(port), str(streams))


def percentile(ordered: Sequence[float], share: float) -> float:
    """A percentile of values in order."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
