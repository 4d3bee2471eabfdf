"""`make bench`: every benchmark, one line each."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.bench_hot_paths import decision, encode, parse
from bench.bench_push import push


async def pushes() -> None:
    """Fan-out at a few sizes."""
    for endpoints, streams in ((1_000, 100), (10_000, 20), (100, 1_000)):
        async for line in push(endpoints, streams):
            print(line, flush=True)


def main() -> None:
    """Run everything."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for benchmark in (parse, decision, encode):
        for result in benchmark():
            print(result, flush=True)
    asyncio.run(pushes())


if __name__ == "__main__":
    main()
