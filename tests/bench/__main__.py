"""`make bench`: the quick tables; `make bench ARGS=growth`: one of them; `make bench ARGS=all`: all that are about
the control plane.

All print Markdown with the machine named, ready to be pasted into `README.md` beside this file.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.bench_ack import ack
from bench.bench_growth import growth
from bench.bench_heartbeats import heartbeats
from bench.bench_hot_paths import hot_paths
from bench.bench_peers import peers
from bench.bench_proxy import proxy
from bench.bench_push import push
from bench.bench_scrape import scrape
from bench.bench_start import start
from bench.bench_storm import storm
from bench.bench_strategies import strategies
from bench.tables import Table, machine

Benchmark = Callable[[], AsyncIterator[Table]]


async def hot() -> AsyncIterator[Table]:
    """No I/O."""
    yield hot_paths()


async def quick_push() -> AsyncIterator[Table]:
    """The matrix, for a shorter time."""
    async for table in push(seconds=6.0):
        yield table


async def quick_ack() -> AsyncIterator[Table]:
    """Fewer refusals."""
    async for table in ack(samples=100):
        yield table


async def in_the_proxy() -> AsyncIterator[Table]:
    """Our configuration against a bare Envoy; takes about three minutes."""
    rows = [(line,) async for line in proxy()]
    yield Table("A request in the proxy", "make bench ARGS=proxy", ("against a bare Envoy",), tuple(rows))


QUICK: tuple[Benchmark, ...] = (hot, scrape, quick_ack, quick_push)
ALL: dict[str, Benchmark] = {
    "hot": hot, "scrape": scrape, "ack": ack, "start": start, "push": push, "storm": storm, "peers": peers,
    "growth": growth, "heartbeats": heartbeats,
}  # fmt: skip
APART: dict[str, Benchmark] = {"strategies": strategies, "proxy": in_the_proxy}
"""Minutes of load through Envoy: what users see and what a request costs, not what the control plane costs."""


def chosen(names: list[str]) -> tuple[Benchmark, ...]:
    """What was asked for. Exits with what there is when that is not known."""
    if not names:
        return QUICK
    if names == ["all"]:
        return tuple(ALL.values())
    known = ALL | APART
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: all, {', '.join(known)}")
    return tuple(known[name] for name in names)


async def run(benchmarks: tuple[Benchmark, ...]) -> None:
    """One after the other, each table as soon as it is there."""
    print(f"Machine: {machine()}\n", flush=True)
    for benchmark in benchmarks:
        async for table in benchmark():
            print(table, flush=True)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(run(chosen(sys.argv[1:])))
