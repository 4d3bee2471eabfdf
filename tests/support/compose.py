"""The compose stack as tests see it: containers, their addresses in each network, and what they say.

Tests run on the machine of the Docker daemon and talk to containers on their addresses, as operators inside the
metrics network would; requests go through the published ports, as clients' do. Addresses change when a
container is re-created, so they are asked for again after every change of life.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import shlex
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gpuxds.simulator.load import Load, Outcome
from gpuxds.simulator.workload import Workload
from support.waiting import until

COMPOSE = Path(__file__).resolve().parents[2] / "compose"
PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "gpuxdstest")
IMAGES = ("gpuxds/control-plane", "gpuxds/proxy")
GPUS = ("h100", "a100-80", "a100-40", "l40s", "l4")
PROXIES = ("envoy-1", "envoy-2")
SERVICES = ("control-plane", *PROXIES, *GPUS, "prometheus")
POOL = "llama"
START_S = 90.0
SETTLE_S = 60.0

Inspection = dict[str, Any]
"""What `docker inspect` says of one container."""


@functools.cache
def why_no_stack() -> str:
    """Empty when a Docker daemon answers and has the images, else what to do."""
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        return "no Docker daemon answers; install and start one, and run these tests, with: make compose-test"
    for image in IMAGES:
        asked = subprocess.run(["docker", "images", "-q", image], capture_output=True, check=False)
        if not asked.stdout.strip():
            return f"no image {image}; build it, and run these tests, with: make compose-test"
    return ""


def compose_command() -> list[str]:
    """docker-compose 1.29 or compose v2, whichever `$GPUXDS_COMPOSE` names."""
    named = os.environ.get("GPUXDS_COMPOSE", "docker-compose")
    return [*shlex.split(named), "--project-name", PROJECT, "--file", str(COMPOSE / "compose.yaml")]


@dataclass(slots=True)
class Loads:
    """Traffic through both Envoys at once."""

    by_proxy: dict[str, Load]

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for load in self.by_proxy.values() for outcome in load.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]

    def finished_since(self, moment: float) -> int:
        """Requests that were answered after `moment`."""
        return sum(outcome.finished_at > moment and not outcome.error for outcome in self.outcomes)

    async def drained(self) -> bool:
        return not any(load.open for load in self.by_proxy.values())


@dataclass(slots=True)
class Containers:
    """Handles on a running stack."""

    policy_dir: Path
    ports: dict[str, int]
    """Published ports: of each Envoy's listener, and of Prometheus."""
    session: aiohttp.ClientSession
    known: dict[str, Inspection] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Address in the mesh -> GPU server, those of past lives included."""

    # -- docker -----------------------------------------------------------------------------------------

    async def run(self, *command: str) -> str:
        """Output of a command that must succeed."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(self.policy_dir, self.ports)
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{shlex.join(command)}: {err.decode()}"
        return out.decode()

    async def change(self, *arguments: str) -> None:
        """A docker command that may change addresses."""
        self.known.clear()
        await self.run("docker", *arguments)

    async def compose(self, *arguments: str) -> None:
        """A docker-compose command, which may change addresses."""
        self.known.clear()
        await self.run(*compose_command(), *arguments)

    async def inspect(self, service: str) -> Inspection:
        """What Docker says of a container now."""
        ids = (await self.run("docker", "ps", "--all", "--quiet", *labels(service))).split()
        assert len(ids) == 1, f"{service}: {len(ids)} containers"
        found: Inspection = json.loads(await self.run("docker", "inspect", ids[0]))[0]
        self.known[service] = found
        return found

    async def id(self, service: str) -> str:
        return str((await self.inspect(service))["Id"])

    async def address(self, service: str, network: str) -> str:
        """A container's address in a network."""
        found = self.known.get(service) or await self.inspect(service)
        networks = found["NetworkSettings"]["Networks"]
        return str(networks.get(f"{PROJECT}_{network}", {}).get("IPAddress", ""))

    async def unhealthy(self) -> list[str]:
        """Services whose health check does not pass."""
        states = {service: (await self.inspect(service))["State"] for service in SERVICES}
        return [service for service, state in states.items() if state.get("Health", {}).get("Status") != "healthy"]

    async def cut_off(self, service: str, network: str) -> None:
        """Unplug a container from a network."""
        await self.change("network", "disconnect", f"{PROJECT}_{network}", await self.id(service))

    async def plug_in(self, service: str, network: str, *aliases: str) -> None:
        """Plug it in again, under the names it had."""
        named = [part for alias in (service, *aliases) for part in ("--alias", alias)]
        await self.change("network", "connect", *named, f"{PROJECT}_{network}", await self.id(service))

    # -- the control plane --------------------------------------------------------------------------------

    async def get(self, url: str) -> Any:
        async with self.session.get(url) as response:
            assert response.status == 200, f"{url}: {response.status}"
            return await response.json(content_type=None)

    async def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The admin API."""
        url = f"http://{await self.address('control-plane', 'metrics')}:18001{path}"
        if body is None:
            return await self.get(url)
        async with self.session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def metric(self, name: str) -> float:
        """A sample of the control plane's `/metrics`, named with its labels."""
        url = f"http://{await self.address('control-plane', 'metrics')}:18001/metrics"
        async with self.session.get(url) as response:
            for line in (await response.text()).splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Endpoints as the API shows them."""
        return {row["id"]: row for row in (await self.api("/api/v1/endpoints"))["endpoints"]}

    async def in_sync(self) -> bool:
        """Both proxies are connected and have accepted the latest; False while nobody answers."""
        try:
            proxies = (await self.api("/api/v1/proxies"))["proxies"]
        except (aiohttp.ClientError, AssertionError):
            self.known.pop("control-plane", None)
            return False
        return {proxy["node_id"] for proxy in proxies if proxy["in_sync"]} == set(PROXIES)

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now."""
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query"
        async with self.session.get(url, params={"query": expression}) as response:
            answer = await response.json()
            assert answer["status"] == "success", answer
            return list(answer["data"]["result"])

    async def firing(self, alert: str) -> bool:
        return bool(await self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))

    # -- the fleet ------------------------------------------------------------------------------------------

    async def fault(self, name: str, **faults: Any) -> None:
        """Set faults of a fake server."""
        url = f"http://{await self.address(name, 'mesh')}:18100/fake/{name}/faults"
        async with self.session.post(url, json=faults) as response:
            assert response.status == 200, await response.text()

    async def learn_names(self) -> None:
        """Who has which address in the mesh now."""
        for name in GPUS:
            address = await self.address(name, "mesh")
            if address:
                self.names[address] = name

    async def hosts(self, proxy: str) -> dict[str, tuple[int, str]]:
        """An Envoy's own view of the fleet: weight and EDS health of each server."""
        statuses = await self.get(f"http://{await self.address(proxy, 'metrics')}:9901/clusters?format=json")
        found = [
            host for one in statuses["cluster_statuses"] if one["name"] == POOL for host in one["host_statuses"]
        ]
        addresses = [host["address"]["socket_address"]["address"] for host in found]
        if not set(addresses) <= set(self.names):
            await self.learn_names()
        return {
            self.names[address]: (int(host["weight"]), host["health_status"].get("eds_health_status", "HEALTHY"))
            for address, host in zip(addresses, found, strict=True)
        }

    async def views(self) -> list[dict[str, tuple[int, str]]]:
        """The fleet as each Envoy sees it."""
        return [await self.hosts(proxy) for proxy in PROXIES]

    async def agree(self) -> bool:
        """Both Envoys have the same servers, weights and health."""
        first, second = await self.views()
        return bool(first) and first == second

    async def everywhere(self, name: str, health: str) -> bool:
        """Both Envoys see a server in that health; "" for: they do not have it at all."""
        return all(view.get(name, (0, ""))[1] == health for view in await self.views())

    async def share(self, name: str) -> float:
        """The largest share of the weight that any Envoy gives a server."""
        views = await self.views()
        return max(view[name][0] / sum(weight for weight, _ in view.values()) for view in views)

    async def calm(self) -> bool:
        """Both Envoys serve the whole fleet and the control plane has nothing more to tell them."""
        if not await self.in_sync() or not await self.agree():
            return False
        rows = await self.rows()
        serving = all(rows.get(name, {}).get("health") == "serving" for name in GPUS)
        return serving and all([await self.everywhere(name, "HEALTHY") for name in GPUS])

    @asynccontextmanager
    async def load(self, rate_rps: float) -> AsyncIterator[Loads]:
        """Open-loop traffic through both Envoys; at the end, what is in flight is waited for."""
        loads = Loads(
            {
                proxy: Load(
                    f"http://127.0.0.1:{self.ports[proxy]}/v1/completions",
                    Workload(random.Random(seed), output_median_tokens=60.0, output_max_tokens=200),
                    rate_rps / len(PROXIES),
                )
                for seed, proxy in enumerate(PROXIES)
            }
        )
        tasks = [asyncio.ensure_future(load.run()) for load in loads.by_proxy.values()]
        try:
            yield loads
            for load in loads.by_proxy.values():
                load.rate_rps = 1e-9
            await until(loads.drained, 60, "the last requests are answered")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def labels(service: str) -> list[str]:
    """How `docker ps` finds a service's container; both versions of compose set these."""
    wanted = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
    return [part for key, value in wanted.items() for part in ("--filter", f"label={key}={value}")]


def environment(policy_dir: Path, ports: dict[str, int]) -> dict[str, str]:
    """What compose.yaml is told."""
    return {
        **os.environ,
        "GPUXDS_POLICY_DIR": str(policy_dir),
        "GPUXDS_PORT_1": str(ports["envoy-1"]),
        "GPUXDS_PORT_2": str(ports["envoy-2"]),
        "GPUXDS_PROMETHEUS_PORT": str(ports["prometheus"]),
    }


@contextmanager
def stack_up(policy_dir: Path, ports: dict[str, int]) -> Iterator[float]:
    """The stack while the block runs; yields when `up` began. Removed with its volumes whatever happens."""
    env = environment(policy_dir, ports)
    began = time.monotonic()
    try:
        subprocess.run([*compose_command(), "up", "-d", "--no-build"], env=env, check=True, capture_output=True)
        yield began
    finally:
        down = [*compose_command(), "down", "--volumes", "--remove-orphans", "--timeout", "5"]
        subprocess.run(down, env=env, check=False, capture_output=True)
