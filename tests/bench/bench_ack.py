"""From a changed signal to its ACK: a whole engine, a fleet that is scraped, and one real Envoy.

A refusal is recorded the way the scraper records it and the loop is poked; the clock stops when Envoy acknowledges
the assignment in which that endpoint is out. The wait for the next scrape is not part of it, everything else is:
the 10 ms in which pokes are gathered, the decision, the encoding, gRPC, Envoy's own work, and the way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.bench_push import percentile
from bench.conversation import HERE, started
from bench.fleets import policy_text
from bench.tables import FIGURES, Table, figure
from gpuxds.assets import envoy_binary
from gpuxds.cli.demo.processes import Processes
from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.events import Acked, Event
from gpuxds.discovery.server import AdsServer
from gpuxds.discovery.stream import Stream
from gpuxds.engine import pauses
from gpuxds.engine.loop import POKE_SPACING_S, Engine, Settings
from gpuxds.scoring.contract import EnvoyHealth
from gpuxds.signals.model import Signal
from gpuxds.snapshot.bootstrap import BootstrapOptions, render
from gpuxds.snapshot.groups import ALL
from gpuxds.snapshot.model import ENDPOINTS, Snapshot
from support.parts import why_absent
from support.stack import free_ports
from support.waiting import until

ENDPOINTS_COUNT = 1_000
SAMPLES = 200
PAUSE_S = 0.15
WARM_UP_S = 5.0
"""The first round of scrapes opens a connection per endpoint; that is part of the start."""


class WatchedServer(AdsServer):
    """Notes when each version of the endpoints was published and acknowledged."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:0", credentials=Credentials(), group_of=lambda _: ALL, clock=time.time)
        self.published: dict[str, float] = {}
        self.acked: dict[str, float] = {}
        self.on_publish: Callable[[str], None] = lambda _version: None

    def publish(self, snapshots: Mapping[str, Snapshot]) -> None:
        version = snapshots[ALL].of(ENDPOINTS).version
        self.published.setdefault(version, time.time())
        self.on_publish(version)
        super().publish(snapshots)

    def event(self, stream: Stream, event: Event) -> None:
        if isinstance(event, Acked) and event.type_url == ENDPOINTS:
            self.acked.setdefault(event.version, time.time())
        super().event(stream, event)


@asynccontextmanager
async def engine_with_envoy(count: int, folder: Path) -> AsyncIterator[tuple[Engine, WatchedServer]]:
    """A running engine whose fleet answers, and an Envoy that follows it."""
    listener_port, envoy_port = free_ports(2)
    server = WatchedServer()
    processes = Processes(folder)
    async with contextlib.AsyncExitStack() as cleanup:
        pages = await cleanup.enter_async_context(started(sys.executable, HERE / "page_server.py"))
        policy = folder / "policy.yaml"
        policy.write_text(policy_text(count, int(await pages.answer("port")), listener_port=listener_port))
        engine = Engine(Settings(policy, folder / "state.json"), server, time.time)
        engine.load()
        await server.start()
        cleanup.push_async_callback(server.stop, 0.1)
        running = asyncio.ensure_future(engine.run())
        cleanup.push_async_callback(ended, engine, running)
        cleanup.push_async_callback(processes.stop_all)
        bootstrap = folder / "envoy.yaml"
        bootstrap.write_text(
            render(BootstrapOptions("envoy", ("127.0.0.1", server.port), admin=("127.0.0.1", envoy_port)))
        )
        await processes.start(
            "envoy", str(envoy_binary()), "-c", str(bootstrap), "--concurrency", "1", "--log-level", "error",
            "--use-dynamic-base-id",
        )  # fmt: skip
        await until(lambda: server.acked, 60, "Envoy has the fleet")
        yield engine, server


async def ended(engine: Engine, running: asyncio.Future[None]) -> None:
    """Stop the engine."""
    engine.stop()
    await running


async def one_refusal(engine: Engine, server: WatchedServer, number: int) -> tuple[float, float] | None:
    """Seconds from the refusal of one endpoint to its publication and to its ACK; None when a scrape was faster."""
    row = engine.fleet.endpoints.index(engine.fleet.by_id[f"e{number}"])
    decided: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    at = time.time()

    def look(version: str) -> None:
        decision = engine.decisions["p"]
        if decision.at >= at and not decided.done():
            decided.set_result(version if decision.envoy_health[row] == EnvoyHealth.UNHEALTHY else "")

    server.on_publish = look
    engine.store.record(f"e{number}", {Signal.PROBE_REFUSALS: 1.0, Signal.SCRAPE_FAILURES: 1.0}, at)
    engine.poke()
    version = await decided
    if not version:
        return None
    await until(lambda: version in server.acked, 5, "Envoy acknowledged it")
    return server.published[version] - at, server.acked[version] - at


async def ack(samples: int = SAMPLES) -> AsyncIterator[Table]:
    """The distribution over many refusals."""
    missing = why_absent("envoy")
    if missing:
        yield Table("Signal to ACK", COMMAND, FIGURES, (), f"skipped: {missing}")
        return
    with tempfile.TemporaryDirectory() as folder:
        async with engine_with_envoy(ENDPOINTS_COUNT, Path(folder)) as (engine, server):
            await asyncio.sleep(WARM_UP_S)
            pauses.shorten()
            times: list[tuple[float, float]] = []
            for number in itertools.count():
                found = await one_refusal(engine, server, 7 * number % ENDPOINTS_COUNT)
                times += [found] if found else []
                if len(times) == samples:
                    break
                await asyncio.sleep(PAUSE_S)
    published, acked = sorted(a for a, _ in times), sorted(b for _, b in times)
    beside = f"published after {1000 * percentile(published, 0.99):.0f} ms (p99)"
    half = f"published after {1000 * percentile(published, 0.5):.0f} ms (median)"
    rows = (
        figure(
            f"refusal to ACK, {ENDPOINTS_COUNT:,} endpoints, p99", 1000 * percentile(acked, 0.99), "ms", 50, beside
        ),
        figure(
            f"refusal to ACK, {ENDPOINTS_COUNT:,} endpoints, median",
            1000 * percentile(acked, 0.5),
            "ms",
            None,
            half,
        ),
    )
    yield Table("Signal to ACK", COMMAND, FIGURES, rows, NOTE)


COMMAND = "make bench ARGS=ack"
NOTE = (
    f"{SAMPLES} refusals, one real Envoy, all endpoints scraped once a second meanwhile; "
    f"{1000 * POKE_SPACING_S:.0f} ms of each is the time in which pokes are gathered."
)
