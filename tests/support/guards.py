"""Several proxies and guards beside a stack: real Envoys, each with an admin page of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from gpuxds.assets import envoy_binary
from gpuxds.snapshot.bootstrap import BootstrapOptions, render
from support.stack import START_S, Stack, free_ports
from support.waiting import until


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    """Names in lower case."""
    sent_at: float
    """`time.monotonic` seconds, as the next one."""
    took_s: float
    asked: Mapping[str, str]
    """Headers it was sent with."""


@dataclass(frozen=True, slots=True)
class Envoy:
    """One running Envoy."""

    stack: Stack
    node: str
    admin_port: int

    async def page(self, path: str) -> str:
        """A page of its admin server; empty while there is none."""
        try:
            async with self.stack.session.get(f"http://127.0.0.1:{self.admin_port}{path}") as response:
                return await response.text()
        except aiohttp.ClientError:
            return ""

    async def stat(self, name: str) -> int:
        """A counter or gauge; 0 while there is none."""
        for line in (await self.page(f"/stats?filter=^{name}$")).splitlines():
            return int(line.rpartition(" ")[2])
        return 0

    async def serves(self, hosts: int) -> bool:
        """Whether it listens, with this many hosts in the pool."""
        self.stack.processes.check()
        if await self.stat("listener_manager.total_listeners_active") == 0:
            return False
        return await self.stat("cluster.llama.membership_total") == hosts

    async def guards(self) -> bool:
        """Whether its guard listens."""
        self.stack.processes.check()
        return await self.stat("listener_manager.total_listeners_active") > 0


async def start_envoy(
    stack: Stack, concurrency: int, node: str = "", guarded: str | None = None, *, sotw: bool = False
) -> Envoy:
    """An Envoy; it may not serve yet."""
    name, admin = node or f"guard-{guarded}", ("127.0.0.1", free_ports(1)[0])
    path = stack.folder / f"{name}.yaml"
    options = BootstrapOptions(
        name, ("127.0.0.1", stack.xds_port), admin=admin, guarded=guarded, state_of_the_world=sotw
    )
    path.write_text(render(options))
    await stack.processes.start(
        name, str(envoy_binary()), "-c", str(path), "--concurrency", str(concurrency),
        "--log-level", "warning", "--use-dynamic-base-id", "--drain-strategy", "immediate",
    )  # fmt: skip
    return Envoy(stack, name, admin[1])


async def start_proxy(stack: Stack, node: str, concurrency: int = 1) -> Envoy:
    """A proxy in front. All listen on one port, so that the kernel spreads connections over them."""
    envoy = await start_envoy(stack, concurrency, node)
    await until(lambda: envoy.serves(len(stack.fleet)), START_S, f"{node} serves the fleet")
    return envoy


async def start_guard(stack: Stack, endpoint: str, concurrency: int = 1, *, sotw: bool = False) -> Envoy:
    """The guard of a fake server."""
    envoy = await start_envoy(stack, concurrency, guarded=endpoint, sotw=sotw)
    await until(envoy.guards, START_S, f"the guard of {endpoint} listens")
    return envoy


async def ask(
    session: aiohttp.ClientSession, url: str, tokens: int, headers: Mapping[str, str] | None = None
) -> Answer:
    """One completion that is not streamed."""
    sent_at = time.monotonic()
    body = {"prompt": "a" * 40, "max_tokens": tokens}
    async with session.post(url, json=body, headers=headers) as response:
        text = await response.text()
        took_s = time.monotonic() - sent_at
        answer = json.loads(text) if "json" in response.headers.get("content-type", "") else {"text": text}
        told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, answer, told, sent_at, took_s, dict(headers or {}))


async def ask_many(url: str, count: int, tokens: int) -> list[Answer]:
    """Many completions at once, each on a connection of its own."""
    limit, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=limit, timeout=timeout) as session:
        return await asyncio.gather(*(ask(session, url, tokens) for _ in range(count)))


def statuses(answers: list[Answer]) -> Counter[int]:
    """How many answers of each status."""
    return Counter(answer.status for answer in answers)


def guarded(made: Stack, capacity: int, queue: dict[str, Any] | None, **parts: Any) -> dict[str, Any]:
    """A policy of the stack's servers, each with this capacity and a guard."""
    policy = made.policy("full_scan", **parts)
    pool = policy["pools"][0]
    pool["guard"] = {"port_offset": made.guard_offset, "address": "127.0.0.1"} | ({"queue": queue} if queue else {})
    for endpoint in pool["endpoints"]:
        endpoint["capacity"] = capacity
    return policy


async def running(made: Stack, name: str, count: int) -> bool:
    """Whether a fake server runs exactly this many requests."""
    async with made.session.get(f"http://127.0.0.1:{made.control_port}/fake") as response:
        return int((await response.json())[name]["running"]) == count
