"""What a request costs in an Envoy with our configuration, and in a bare one with round robin, side by side.

The peer is Envoy with a static listener, one route and one cluster of the same upstreams: what somebody has who has
none of this. Both get the same requests in turns, so that what the machine does beside them falls on both. CPU is
that of the whole Envoy process, so ADS, load reports and the access log are in it. The upstreams are another Envoy,
which answers once it has the whole request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuxds.assets import envoy_binary
from gpuxds.cli.demo.processes import Processes
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from support.ads import serving, snapshot_of
from support.front import listening, placed
from support.stack import free_ports
from support.waiting import until

UPSTREAMS = 4
CLIENTS = 24
ROUNDS = 100
WINDOW_S = 0.12
BODIES = {"2 KB": 2_048, "64 KB": 65_536}
ANSWER = json.dumps({"object": "text_completion", "choices": [{"index": 0, "text": "a " * 64}]})
TYPES = "type.googleapis.com/envoy.extensions"

POOL = """\
version: 1
listener: {{access_log: {log}}}
pools:
  - name: p
{parts}    endpoints:
      - {{id: a, address: '10.0.0.1:80', gpu: {{model: H100-80}}}}
      - {{id: b, address: '10.0.0.2:80', gpu: {{model: H100-80}}}}
      - {{id: c, address: '10.0.0.3:80', gpu: {{model: H100-80}}}}
      - {{id: d, address: '10.0.0.4:80', gpu: {{model: H100-80}}}}
"""


def policy(parts: str = "", *, log: bool = False) -> Policy:
    """A pool of the bench's upstreams with further lines, and whether requests are logged."""
    return load_text(POOL.format(parts=parts, log=str(log).lower()), "bench.yaml").policy


TRIES = "    timeouts: {header: x-request-timeout, request: 60s}\n    hedging: {after: 30s}\n"
LARGE = "    large_requests: {over_tokens: 1000000}\n"
POLICIES: Mapping[str, Policy] = {
    "no retries": policy("    retries: {attempts: 0}\n"),
    "as by default (keeps bodies for retries)": policy(),
    "as by default, with the access log": policy(log=True),
    "large requests (reads bodies)": policy(LARGE),
    "hedging and stated timeouts (reads bodies)": policy(TRIES),
    "all of it, with the access log": policy(LARGE + TRIES, log=True),
}
"""What is compared. A policy that is added has `UPSTREAMS` endpoints."""


class Client(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered, between being started and being stopped."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answered = 0
        self.buffer = b""
        self.stopping = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def start(self) -> None:
        """Send the first request."""
        self.stopping, self.done = False, asyncio.get_running_loop().create_future()
        self.transport.write(self.request)

    def stop(self) -> asyncio.Future[None]:
        """Send no more; done when the last one is answered. Raises RuntimeError when a request failed."""
        self.stopping = True
        return self.done

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, gap, body = self.buffer.partition(b"\r\n\r\n")
        if not gap or len(body) < len(ANSWER):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.fail(RuntimeError(f"a request failed: {head.decode()}"))
            return
        self.buffer = b""
        self.answered += 1
        if self.stopping:
            self.done.set_result(None)
        else:
            self.transport.write(self.request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or RuntimeError("Envoy closed a connection"))

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class Side:
    """One Envoy with connections to it, and what was measured: a value per window."""

    pid: int
    clients: Sequence[Client]
    rates: list[float] = field(default_factory=list)
    """Requests per second."""
    costs_us: list[float] = field(default_factory=list)
    """CPU per request, all threads."""

    async def window(self) -> None:
        """Load it for a while and note what it did. Its connections are idle between windows, and stay."""
        before, cpu_before, started = self.answered, cpu_s(self.pid), time.monotonic()
        for client in self.clients:
            client.start()
        await asyncio.sleep(WINDOW_S)
        await asyncio.gather(*(client.stop() for client in self.clients))
        answered = self.answered - before
        self.costs_us.append(1e6 * (cpu_s(self.pid) - cpu_before) / answered)
        self.rates.append(answered / (time.monotonic() - started))

    @property
    def answered(self) -> int:
        """Requests that were answered, ever."""
        return sum(client.answered for client in self.clients)


def cpu_s(pid: int) -> float:
    """CPU a process has used, all threads: Linux has a clock for each process, numbered as in its
    `posix-timers_types.h`."""
    return time.clock_gettime((~pid << 3) | 2)


@asynccontextmanager
async def connected(pid: int, port: int, body_bytes: int) -> AsyncIterator[Side]:
    """A side whose clients send bodies of this size."""
    body = json.dumps({"model": "m", "prompt": "", "max_tokens": 64})
    body = body.replace('""', '"' + "a" * (body_bytes - len(body)) + '"')
    lines = ["POST /v1/completions HTTP/1.1", "host: x", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    loop, request = asyncio.get_running_loop(), (head + body).encode()
    made = [await loop.create_connection(lambda: Client(request), "127.0.0.1", port) for _ in range(CLIENTS)]
    try:
        yield Side(pid, [client for _, client in made])
    finally:
        for transport, client in made:
            client.done.cancel()
            transport.close()


async def proxy(policies: Mapping[str, Policy] = POLICIES) -> AsyncIterator[str]:
    """A line per policy and size of body, relative to the bare Envoy in turns with it."""
    yield f"{CLIENTS} connections, {UPSTREAMS} upstreams, one worker; {ROUNDS} windows of {WINDOW_S:g} s, in turns"
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = Processes(folder)
        stack.push_async_callback(processes.stop_all)
        ports = free_ports(UPSTREAMS + 1)
        await started(
            processes, "upstreams", {"static_resources": {"listeners": [*map(answering, ports[1:])]}}, ports
        )
        bare_pid = await started(processes, "bare", bare_envoy(ports[0], ports[1:]), ports[:1])
        for number, (label, found) in enumerate(policies.items()):
            here = folder / str(number)
            here.mkdir()
            async with ours(here, found, ports[1:]) as (pid, port):
                for size, body_bytes in BODIES.items():
                    async with (
                        connected(bare_pid, ports[0], body_bytes) as bare,
                        connected(pid, port, body_bytes) as side,
                    ):
                        yield await compared(size, label, bare, side)


async def compared(size: str, label: str, bare: Side, side: Side) -> str:
    """One line: both in turns, after a first window that does not count. Ratios are medians over pairs."""
    for _ in range(ROUNDS + 1):
        await bare.window()
        await side.window()
    rate = statistics.median(a / b for a, b in zip(side.rates[1:], bare.rates[1:], strict=True))
    cost = statistics.median(a / b for a, b in zip(side.costs_us[1:], bare.costs_us[1:], strict=True))
    return (
        f"{size:>5}  {label:<44} {statistics.median(side.rates):7.0f} requests/s (x{rate:.2f})   "
        f"{statistics.median(side.costs_us):6.1f} us CPU per request (x{cost:.3f})"
    )


@asynccontextmanager
async def ours(folder: Path, found: Policy, ports: Sequence[int]) -> AsyncIterator[tuple[int, int]]:
    """An Envoy that was told a policy over ADS, with load reports as in earnest: its process id and its port."""
    port = free_ports(1)[0]
    async with serving(folder, snapshot_of(placed(found, ports, port))) as served:
        await served.start_envoy()
        await served.settled()
        await until(lambda: listening(port), 10, "Envoy listens")
        yield served.processes.running["envoy-1"].pid, port


async def started(processes: Processes, name: str, config: dict[str, Any], ports: Sequence[int]) -> int:
    """Start an Envoy with a configuration of its own; its process id."""
    path = processes.folder / f"{name}.json"
    path.write_text(json.dumps(config))
    await processes.start(
        name, str(envoy_binary()), "-c", str(path), "--concurrency", "1", "--log-level", "error",
        "--use-dynamic-base-id",
    )  # fmt: skip
    await until(lambda: listening(ports[-1]), 10, f"{name} listens")
    return processes.running[name].pid


def listener(port: int, route: dict[str, Any], *filters: dict[str, Any]) -> dict[str, Any]:
    """A static listener with one route."""
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {"name": "all", "virtual_hosts": [host]},
        "http_filters": [*filters, router],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


def answering(port: int) -> dict[str, Any]:
    """An upstream: the same answer to every request, once it has come whole."""
    buffer = {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": f"{TYPES}.filters.http.buffer.v3.Buffer", "max_request_bytes": 1_048_576},
    }
    return listener(port, {"direct_response": {"status": 200, "body": {"inline_string": ANSWER}}}, buffer)


def bare_envoy(port: int, upstreams: Sequence[int]) -> dict[str, Any]:
    """The peer."""
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
        for upstream in upstreams
    ]
    assignment = {"cluster_name": "p", "endpoints": [{"lb_endpoints": hosts}]}
    cluster = {"name": "p", "type": "STATIC", "lb_policy": "ROUND_ROBIN", "load_assignment": assignment}
    listeners = [listener(port, {"route": {"cluster": "p", "timeout": "0s"}})]
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}
