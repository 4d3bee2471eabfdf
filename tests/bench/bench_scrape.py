"""What it costs to know a fleet: pages parsed, and pages fetched once a second by the real scraper.

The pages come from another process, so that this one's CPU is the scraper's alone. A second loop with the same
client and connections fetches and does not read: that part is aiohttp's and asyncio's own.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench.conversation import HERE, started
from bench.fleets import loopback, policy_text
from bench.tables import FIGURES, Table, figure
from bench.timing import compare
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.signals.collect import dns
from gpuxds.signals.collect.fetch import FetchOptions, fetch
from gpuxds.signals.collect.scrape import Scraper
from gpuxds.signals.model import Signal
from gpuxds.signals.presets import presets
from gpuxds.signals.reader import PageReader
from gpuxds.signals.store import Store, rules_of
from support.pages import vllm_page
from support.waiting import until

PAGES = 1_000
SECONDS = 10.0


def parse() -> tuple[str, ...]:
    """A thousand pages, each as the next one of its engine."""
    page = vllm_page()
    text = page.decode()
    readers = [PageReader(presets()["vllm"], 5.0) for _ in range(PAGES)]
    clock = iter(range(1, 1_000_000))

    def ours() -> None:
        at = float(next(clock))
        for reader in readers:
            reader.read(page, at)

    def theirs() -> None:
        for _ in range(PAGES // 20):
            list(text_string_to_metric_families(text))

    found = compare(ours, theirs, rounds=3, repeats=2, peer_repeats=1)
    peer_s = 20 * found.peer_s
    return figure(
        f"parse {PAGES:,} pages of {len(page) / 1000:.0f} kB", found.ours_s, "s CPU", 0.5,
        f"prometheus-client, parsing only: {peer_s:.2f} s, ×{peer_s / found.ours_s:.0f}",
    )  # fmt: skip


async def scrape(sizes: tuple[int, ...] = (1_000,)) -> AsyncIterator[Table]:
    """Parsing alone, then fleets of these sizes once a second."""
    rows = [parse()]
    for size in sizes:
        for kind in ("plain", "gzip"):
            async with started(sys.executable, HERE / "page_server.py", kind) as server:
                port = int(await server.answer("port"))
                whole, rate, failed = await scraper_cpu(size, port)
                bare = await fetching_cpu(size, port)
            rows.append(
                figure(
                    f"scrape {size:,} endpoints once a second, {kind} pages", whole, "cores",
                    1.0 if size == PAGES else None,
                    f"{rate:,.0f} pages/s read, {failed} failed; fetching without reading: {bare:.2f} cores",
                )
            )  # fmt: skip
    yield Table("Signals: pages to columns", "make bench ARGS=scrape", FIGURES, tuple(rows), NOTE)


NOTE = "The pages come from another process; CPU is that of the one that scrapes."


class CountingStore(Store):
    """A store that knows how many engine pages were read into it."""

    pages = 0

    def record(self, endpoint_id: str, values: Mapping[Signal, float], at: float) -> None:
        self.pages += Signal.RUNNING in values
        super().record(endpoint_id, values, at)


async def scraper_cpu(size: int, port: int) -> tuple[float, float, int]:
    """Cores, pages per second and failed fetches of the real scraper, once it is in its stride."""
    policy = load_text(policy_text(size, port), "bench").policy
    store = CountingStore(rules_of(policy.signals))
    fleet = endpoints(policy)
    store.sync([endpoint.id for endpoint in fleet])
    async with Scraper(store, now=time.time, rng=random.Random(1), on_event=lambda: None) as scraper:
        scraper.apply(fleet, policy)
        await until(lambda: store.pages >= 2 * size, 60, "every page was read")
        before = store.pages
        cores = await cores_of(SECONDS)
    return cores, (store.pages - before) / SECONDS, scraper.failures


async def fetching_cpu(size: int, port: int) -> float:
    """Cores of a loop that fetches the same pages at the same rate and looks at none."""
    options = FetchOptions(timeout_s=2.0, max_bytes=2**22)
    rng = random.Random(1)

    async def follow(session: aiohttp.ClientSession, url: str) -> None:
        await asyncio.sleep(rng.random())
        while True:
            due = time.monotonic() + 1.0
            await fetch(session, url, options)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    connector = dns.connector(limit=0, limit_per_host=2, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
        tasks = [
            asyncio.ensure_future(follow(session, f"http://{loopback(n)}:{port}/metrics")) for n in range(size)
        ]
        await asyncio.sleep(3.0)
        cores = await cores_of(SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return cores


async def cores_of(seconds: float) -> float:
    """Cores this process uses over a while."""
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / (time.monotonic() - wall)
