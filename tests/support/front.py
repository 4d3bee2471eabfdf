"""A real Envoy that was told a policy over ADS, before servers that misbehave on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from support.ads import Served, serving, snapshot_of
from support.stack import free_ports
from support.upstreams import Answer, Upstream, ask, upstreams
from support.waiting import until


@dataclass(frozen=True)
class Front:
    """Handles on everything."""

    servers: list[Upstream]
    url: str
    served: Served
    policy: Policy

    async def ask(self, body: bytes | dict[str, Any] = b"{}", **headers: str) -> Answer:
        """A request as a client sends it; header names are written with underscores."""
        return await ask(self.served.session, self.url, body, **headers)

    @property
    def attempts(self) -> int:
        """Requests that reached a server, retries included."""
        return sum(len(server.seen) for server in self.servers)

    def numbers(self) -> list[str]:
        """The attempt each request said it was, in order."""
        return sorted(seen["x-envoy-attempt-count"] for server in self.servers for seen in server.seen)


def one_pool(count: int, parts: str = "") -> Policy:
    """A pool of `count` servers whose turn comes in order; `parts` are further lines of the pool."""
    text = (
        "version: 1\nlistener: {access_log: false, response_headers: true}\n"
        f"pools:\n  - name: p\n    strategy: round_robin\n    outlier_detection: {{consecutive_5xx: 0}}\n{parts}"
        "    endpoints:\n"
    )
    for number in range(count):
        text += f"      - {{id: u{number}, address: '10.0.0.{number + 1}:80', gpu: {{model: L4}}}}\n"
    return load_text(text, "test.yaml").policy


def placed(policy: Policy, ports: Sequence[int], port: int) -> Policy:
    """The policy with its endpoints on these local ports, in order, and its listener on `port`."""
    rest = iter(ports)
    pools = [
        pool.model_copy(
            update={
                "endpoints": [
                    endpoint.model_copy(update={"address": f"127.0.0.1:{next(rest)}"})
                    for endpoint in pool.endpoints
                ]
            }
        )
        for pool in policy.pools
    ]
    listener = policy.listener.model_copy(update={"address": "127.0.0.1", "port": port})
    return policy.model_copy(update={"pools": pools, "listener": listener})


@asynccontextmanager
async def front(folder: Path, policy: Policy) -> AsyncIterator[Front]:
    """Everything running; stopped at the end."""
    port = free_ports(1)[0]
    async with contextlib.AsyncExitStack() as stack:
        count = sum(len(pool.endpoints) for pool in policy.pools)
        servers = await stack.enter_async_context(upstreams(count))
        here = placed(policy, [server.port for server in servers], port)
        served = await stack.enter_async_context(serving(folder, snapshot_of(here)))
        await served.start_envoy()
        await served.settled()
        await until(lambda: listening(port), 10, "Envoy listens")
        yield Front(servers, f"http://127.0.0.1:{port}/v1/completions", served, here)


async def listening(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
