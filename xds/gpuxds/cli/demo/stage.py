"""The demo's stage: everything that `make demo` runs, and the handles the story pulls.

The policy is the one that ships as `policies/default.yaml`, so that what the demo shows is what a user who
edits that file gets. Only the GPUs are fake: their servers answer, stream and report like vLLM with timings
from a model of the real hardware.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gpuxds.assets import asset, envoy_binary
from gpuxds.cli.client import fetch
from gpuxds.cli.demo.processes import Processes, require_free
from gpuxds.errors import EnvironmentProblem, Refused, ServerAway
from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load
from gpuxds.snapshot.bootstrap import BootstrapOptions, render

XDS_PORT, ADMIN_PORT, ENVOY_ADMIN_PORT, CONTROL_PORT = 18000, 18001, 18002, 18100
START_S = 15.0


@dataclass(slots=True)
class Stage:
    """Handles on the running demo."""

    processes: Processes
    policy_path: Path
    session: aiohttp.ClientSession
    listener_port: int
    fleet: tuple[Endpoint, ...] = field(default=())

    @property
    def url(self) -> str:
        """Where clients send requests: Envoy."""
        return f"http://127.0.0.1:{self.listener_port}/v1/completions"

    @property
    def admin(self) -> str:
        """The control plane's admin API."""
        return f"http://127.0.0.1:{ADMIN_PORT}"

    async def start_control_plane(self) -> None:
        """Start it, the second time from its saved state."""
        await self.processes.start(
            "control-plane", sys.executable, "-m", "gpuxds", "serve", str(self.policy_path),
            "--xds", f"127.0.0.1:{XDS_PORT}", "--admin", f"127.0.0.1:{ADMIN_PORT}",
            "--state-dir", str(self.processes.folder), "--log-format", "json",
        )  # fmt: skip

    async def kill_control_plane(self) -> None:
        """kill -9."""
        await self.processes.kill("control-plane")

    async def fault(self, name: str, **faults: Any) -> None:
        """Set a fault of a fake GPU server, for example throttle=2.0."""
        url = f"http://127.0.0.1:{CONTROL_PORT}/fake/{name}/faults"
        async with self.session.post(url, json=faults) as response:
            response.raise_for_status()

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The control plane's answer; None while it is down or has none."""
        try:
            return await fetch(self.admin, path, body)
        except (ServerAway, Refused):
            return None

    async def hosts(self) -> dict[str, dict[str, int]]:
        """Envoy's own view: endpoint id -> weight and requests so far; only hosts it has."""
        by_address = {f"{e.ip}:{e.port}": e.id for e in self.fleet}
        async with self.session.get(f"http://127.0.0.1:{ENVOY_ADMIN_PORT}/clusters?format=json") as response:
            document = await response.json(content_type=None)
        found: dict[str, dict[str, int]] = {}
        for cluster in document.get("cluster_statuses", []):
            for host in cluster.get("host_statuses", []):
                place = host["address"]["socket_address"]
                endpoint_id = by_address.get(f"{place['address']}:{place['port_value']}")
                if endpoint_id is not None:
                    stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
                    found[endpoint_id] = {"weight": int(host["weight"]), "requests": stats["rq_total"]}
        return found

    async def until_up(self) -> None:
        """Wait until Envoy serves the fleet. Raises EnvironmentProblem with the log of what did not start."""
        try:
            async with asyncio.timeout(START_S):
                while not await self.is_up():
                    self.processes.check()
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            words = "\n".join(f"{name}:\n{self.processes.last_words(name)}" for name in self.processes.running)
            raise EnvironmentProblem(f"the demo did not come up within {START_S:.0f} s\n{words}") from error

    async def is_up(self) -> bool:
        """Whether Envoy has every endpoint."""
        try:
            return len(await self.hosts()) == len(self.fleet)
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Everything started and, at the end, everything stopped. Raises EnvironmentProblem."""
    policy_path = asset("policies", "default.yaml")
    loaded = load(policy_path)
    fleet = endpoints(loaded.policy)
    listener_port = loaded.policy.listener.port
    envoy = envoy_binary()
    require_free(
        {
            listener_port: "Envoy's listener", XDS_PORT: "xDS", ADMIN_PORT: "gpuxds admin",
            ENVOY_ADMIN_PORT: "Envoy admin", CONTROL_PORT: "faults of the fake GPUs",
            **{endpoint.port: f"fake GPU server {endpoint.id}" for endpoint in fleet},
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gpuxds-demo-") as name:
        processes = Processes(Path(name))
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            scene = Stage(processes, policy_path, session, listener_port, fleet)
            try:
                await start(scene, envoy)
                yield scene
            finally:
                await processes.stop_all()


async def start(scene: Stage, envoy: Path) -> None:
    """Start the three kinds of processes and wait until traffic can flow."""
    processes = scene.processes
    spec = ",".join(f"{e.id}={e.gpu.model}:{e.port}" for e in scene.fleet)
    await processes.start(
        "fake-gpus", sys.executable, "-m", "gpuxds.simulator", "--fleet", spec, "--control-port", str(CONTROL_PORT)
    )
    bootstrap = processes.folder / "bootstrap.yaml"
    options = BootstrapOptions("demo-envoy", ("127.0.0.1", XDS_PORT), admin=("127.0.0.1", ENVOY_ADMIN_PORT))
    bootstrap.write_text(render(options))
    await scene.start_control_plane()
    await processes.start(
        "envoy", str(envoy), "-c", str(bootstrap), "--concurrency", "2", "--log-level", "warning",
        "--use-dynamic-base-id",
    )  # fmt: skip
    await scene.until_up()
