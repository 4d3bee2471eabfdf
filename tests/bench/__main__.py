"""`make bench`: the quick benchmarks, one line each.

`make bench ARGS=strategies`: every strategy under load. `make bench ARGS=proxy`: requests per second and CPU per
request of Envoy with our configuration, against a bare one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.bench_hot_paths import decision, encode, parse
from bench.bench_proxy import proxy
from bench.bench_push import push
from bench.bench_strategies import strategies


async def pushes() -> None:
    """Fan-out at a few sizes."""
    for endpoints, streams in ((1_000, 100), (10_000, 20), (100, 1_000)):
        async for line in push(endpoints, streams):
            print(line, flush=True)


async def under_load() -> None:
    """Strategies side by side; takes about seven minutes."""
    async for line in strategies():
        print(line, flush=True)


async def in_the_proxy() -> None:
    """Our configuration against a bare Envoy; takes about three minutes."""
    async for line in proxy():
        print(line, flush=True)


def main() -> None:
    """Run what was asked for."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if sys.argv[1:] == ["strategies"]:
        asyncio.run(under_load())
        return
    if sys.argv[1:] == ["proxy"]:
        asyncio.run(in_the_proxy())
        return
    for benchmark in (parse, decision, encode):
        for result in benchmark():
            print(result, flush=True)
    asyncio.run(pushes())


if __name__ == "__main__":
    main()
