"""Our ADS server alone in a process: `python ads_server.py ENDPOINTS EVERY_S`.

Serves one assignment and changes every weight of it every so many seconds (0: never) until standard input ends.
Says on standard output where it listens, and what was published when: the moment is taken before the weights are
encoded, so that latency has everything in it. `peers/main.go` speaks the same way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.fleets import fleet_of
from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.server import AdsServer, Hooks
from gpuxds.engine.events import EventLog
from gpuxds.engine.observe import Metrics
from gpuxds.engine.report import Reporter
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.snapshot.model import ENDPOINTS, Snapshot
from gpuxds.snapshot.versions import resource_set


class Publications:
    """Assignments whose weights all differ from one to the next."""

    def __init__(self, count: int) -> None:
        self.fleet = tuple(fleet_of(count))
        self.encoder = AssignmentEncoder("p")
        self.health, self.in_eds = np.ones(count, dtype=np.int64), np.ones(count, dtype=np.bool_)
        self.step = 0

    def next(self) -> Snapshot:
        """The next one."""
        self.step += 1
        weights = np.arange(1, len(self.fleet) + 1) + self.step
        encoded = self.encoder.encode(self.fleet, weights, self.health, self.in_eds)
        return Snapshot({ENDPOINTS: resource_set([encoded])})


def say(document: dict[str, object]) -> None:
    """A line of JSON."""
    print(json.dumps(document), flush=True)


async def publish_regularly(server: AdsServer, publications: Publications, every_s: float) -> None:
    """Publish, at a steady rate, until cancelled."""
    due = time.monotonic()
    while True:
        due += every_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        at = time.time()
        snapshot = publications.next()
        server.publish({"all": snapshot})
        took_s = time.time() - at
        say({"version": snapshot.of(ENDPOINTS).version, "at": at, "took_s": took_s, "streams": len(server.streams)})


async def main(count: int, every_s: float) -> None:
    """Serve until standard input ends, with the counters and events of the whole server behind it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    reporter = Reporter(Metrics(), EventLog(next_id=1))
    hooks = Hooks(
        on_event=lambda node, event: reporter.answer(node, event, time.time()),
        on_stalled=lambda: say({"stalled": time.time()}),
        on_proxy=lambda node, connected: reporter.proxy(node, connected, time.time()),
    )
    server = AdsServer(
        "127.0.0.1:0", credentials=Credentials(), group_of=lambda _: "all", clock=time.time, hooks=hooks
    )
    publications = Publications(count)
    await server.start()
    server.publish({"all": publications.next()})
    say({"port": server.port})
    publishing = asyncio.ensure_future(publish_regularly(server, publications, every_s)) if every_s else None
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    if publishing is not None:
        publishing.cancel()
    await server.stop(0.1)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
