"""A whole stack on free ports: fake GPU servers, the control plane and real Envoys, each its own process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import aiohttp
from ruamel.yaml import YAML

from gpuxds.assets import envoy_binary
from gpuxds.cli.client import fetch
from gpuxds.cli.demo.gauge import Gauge
from gpuxds.cli.demo.processes import Processes
from gpuxds.simulator.load import Load
from gpuxds.simulator.workload import Workload
from gpuxds.snapshot.bootstrap import BootstrapOptions, render
from support.waiting import until

START_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all different."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


def guard_offset(ports: list[int]) -> int:
    """An offset from these ports at which all ports are free now."""
    for offset in range(1, 5000):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return offset
    raise AssertionError(f"no offset leads from {ports} to free ports")


class Host(TypedDict):
    """An endpoint as Envoy sees it."""

    weight: int
    requests: int
    active: int
    health: str
    """EDS health."""


class Stack:
    """Handles on everything."""

    def __init__(self, folder: Path, fleet: dict[str, str], session: aiohttp.ClientSession) -> None:
        ports = free_ports(5 + len(fleet))
        self.xds_port, self.admin_port, self.control_port, self.listener_port, self.envoy_port = ports[:5]
        self.folder = folder
        self.session = session
        self.fleet = fleet
        self.ports = dict(zip(fleet, ports[5:], strict=True))
        self.processes = Processes(folder)
        self.policy_path = folder / "policy.yaml"
        self.gauge = Gauge()
        self.guard_offset = guard_offset(list(self.ports.values()))

    # -- policy -----------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> dict[str, Any]:
        """A policy entry for one fake server."""
        port = self.ports[name]
        return {
            "id": name,
            "address": f"127.0.0.1:{port}",
            "gpu": {"model": self.fleet[name]},
            "metrics": {"gpu": f"http://127.0.0.1:{port}/dcgm/metrics"},
        }

    def policy(self, strategy: Any = "gpu_aware", **parts: Any) -> dict[str, Any]:
        """A policy with one pool of all fake servers; `parts` replace top-level parts."""
        pool = {"name": "llama", "strategy": strategy, "endpoints": [self.endpoint(name) for name in self.fleet]}
        return {
            "version": 1,
            "listener": {"address": "127.0.0.1", "port": self.listener_port, "access_log": False},
            "pools": [pool],
            "signals": {"gpu": {"interval": "1s"}},
            **parts,
        }

    def write_policy(self, policy: dict[str, Any]) -> None:
        """Save it the way editors do: a new file renamed over the old one."""
        new = self.policy_path.with_suffix(".tmp")
        with new.open("w") as file:
            YAML().dump(policy, file)
        new.replace(self.policy_path)

    # -- processes --------------------------------------------------------------------------------------

    async def start_fakes(self) -> None:
        """The fake GPU servers."""
        spec = ",".join(f"{name}={gpu}:{self.ports[name]}" for name, gpu in self.fleet.items())
        await self.processes.start(
            "fakes", sys.executable, "-m", "gpuxds.simulator",
            "--fleet", spec, "--control-port", str(self.control_port),
        )  # fmt: skip
        await until(self.fakes_up, START_S, "fake servers are up")

    async def fakes_up(self) -> bool:
        self.processes.check()
        try:
            async with self.session.get(f"http://127.0.0.1:{self.control_port}/fake") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def start_control_plane(self, *options: str, wait: bool = True) -> None:
        """`gpuxds serve`."""
        await self.processes.start(
            "control-plane", sys.executable, "-m", "gpuxds", "serve", str(self.policy_path),
            "--xds", f"127.0.0.1:{self.xds_port}", "--admin", f"127.0.0.1:{self.admin_port}",
            "--state-dir", str(self.folder), "--log-format", "json", *options,
        )  # fmt: skip
        if wait:
            await until(self.ready, START_S, "the control plane is ready")

    async def ready(self) -> bool:
        self.processes.check()
        try:
            async with self.session.get(f"http://127.0.0.1:{self.admin_port}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def start_envoy(self, *, node: str = "envoy-1", sotw: bool = False, **options: Any) -> None:
        """A real Envoy, configured by what `gpuxds bootstrap` prints."""
        bootstrap = self.folder / f"{node}.yaml"
        settings = BootstrapOptions(
            node, ("127.0.0.1", self.xds_port), admin=("127.0.0.1", self.envoy_port),
            state_of_the_world=sotw, **options,
        )  # fmt: skip
        bootstrap.write_text(render(settings))
        await self.processes.start(
            node, str(envoy_binary()), "-c", str(bootstrap), "--concurrency", "1",
            "--log-level", "warning", "--use-dynamic-base-id",
        )  # fmt: skip
        await until(self.listening, START_S, "Envoy serves the fleet")

    async def listening(self) -> bool:
        self.processes.check()
        try:
            return (
                len(await self.hosts()) == len(self.fleet)
                and await self.stat("listener_manager.total_listeners_active") > 0
            )
        except aiohttp.ClientError:
            return False

    # -- questions --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients send completions."""
        return f"http://127.0.0.1:{self.listener_port}/v1/completions"

    async def api(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The admin API."""
        return await fetch(f"http://127.0.0.1:{self.admin_port}", path, body)

    async def row(self, name: str) -> dict[str, Any]:
        """One endpoint as the API shows it."""
        return await self.api(f"/api/v1/endpoints/{name}")

    async def metric(self, name: str) -> float:
        """A sample of the control plane's `/metrics`, named with its labels."""
        async with self.session.get(f"http://127.0.0.1:{self.admin_port}/metrics") as response:
            for line in (await response.text()).splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    async def fault(self, name: str, **faults: Any) -> None:
        """Set faults of a fake server."""
        url = f"http://127.0.0.1:{self.control_port}/fake/{name}/faults"
        async with self.session.post(url, json=faults) as response:
            assert response.status == 200, await response.text()

    async def envoy(self, path: str) -> Any:
        """Envoy's admin page as JSON."""
        async with self.session.get(f"http://127.0.0.1:{self.envoy_port}{path}") as response:
            return await response.json(content_type=None)

    async def stat(self, name: str) -> float:
        """One of Envoy's counters or gauges."""
        stats = (await self.envoy(f"/stats?format=json&filter=^{name}$"))["stats"]
        return float(stats[0]["value"]) if stats else 0.0

    async def hosts(self) -> dict[str, Host]:
        """Envoy's own view of the fleet: id -> weight, requests so far, EDS health; hosts it has only."""
        names = {port: name for name, port in self.ports.items()}
        found: dict[str, Host] = {}
        for cluster in (await self.envoy("/clusters?format=json")).get("cluster_statuses", []):
            for host in cluster.get("host_statuses", []):
                name = names.get(host["address"]["socket_address"]["port_value"])
                if name is not None:
                    stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
                    found[name] = {
                        "weight": int(host["weight"]),
                        "requests": stats["rq_total"],
                        "active": stats["rq_active"],
                        "health": host["health_status"].get("eds_health_status", "HEALTHY"),
                    }
        return found

    async def weights(self) -> dict[str, int]:
        """Weights as Envoy has them."""
        return {name: host["weight"] for name, host in (await self.hosts()).items()}

    async def requests(self) -> dict[str, int]:
        """Requests Envoy sent to each endpoint so far."""
        return {name: host["requests"] for name, host in (await self.hosts()).items()}

    async def watch(self) -> None:
        """Keep the gauge of shares going, until cancelled."""
        while True:
            self.gauge.add(time.monotonic(), await self.requests())
            await asyncio.sleep(0.2)

    def share(self, name: str, window_s: float) -> float:
        """Share of new requests over the last `window_s` seconds; needs `watch`."""
        now = time.monotonic()
        return self.gauge.shares(now - window_s, now).get(name, 0.0)

    def log(self, name: str = "control-plane") -> str:
        """What a process said so far."""
        return (self.folder / f"{name}.log").read_text()

    @asynccontextmanager
    async def load(self, rate_rps: float, *, seed: int = 1, **workload: Any) -> AsyncIterator[Load]:
        """Open-loop traffic through Envoy, and the gauge beside it."""
        load = Load(self.url, Workload(random.Random(seed), **workload), rate_rps)
        tasks = [asyncio.ensure_future(load.run()), asyncio.ensure_future(self.watch())]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def stack(
    folder: Path,
    fleet: dict[str, str],
    *,
    control_plane: bool = True,
    envoy: bool = True,
    strategy: Any = "gpu_aware",
) -> AsyncIterator[Stack]:
    """A running stack; everything is stopped at the end, and the logs are shown when the test failed."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        made = Stack(folder, fleet, session)
        made.write_policy(made.policy(strategy))
        try:
            await made.start_fakes()
            if control_plane:
                await made.start_control_plane()
            if envoy:
                await made.start_envoy()
            yield made
        except BaseException:
            for name in made.processes.running:
                print(f"--- {name}\n{made.processes.last_words(name)}")
            raise
        finally:
            await made.processes.stop_all()
