"""An ADS server in this process, and real clients of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from gpuxds.assets import envoy_binary
from gpuxds.cli.demo.processes import Processes
from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.events import Event, NodeInfo
from gpuxds.discovery.server import AdsServer, Hooks
from gpuxds.fleet.endpoint import Endpoint, Fleet
from gpuxds.policy.build import endpoints as policy_endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.policy.slices import slices_of
from gpuxds.snapshot.assemble import assemble
from gpuxds.snapshot.bootstrap import BootstrapOptions, render
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.snapshot.model import Resource, ResourceSet, Snapshot
from gpuxds.snapshot.resources import config
from gpuxds.snapshot.versions import resource_set
from support.stack import free_ports
from support.waiting import until

HEALTHY = 1


def policy_of(
    pools: Mapping[str, Sequence[int]], listener_port: int = 10000, strategy: str = "gpu_aware"
) -> Policy:
    """A policy whose pools have endpoints on these local ports."""
    text = f"version: 1\nlistener: {{address: 127.0.0.1, port: {listener_port}, access_log: false}}\npools:\n"
    for name, ports in pools.items():
        text += f"  - name: {name}\n    strategy: {strategy}\n    match: {{prefix: /{name}}}\n    endpoints:\n"
        for port in ports:
            text += f"      - {{id: {name}-{port}, address: '127.0.0.1:{port}', gpu: {{model: A100-80}}}}\n"
    return load_text(text, "test.yaml").policy


def assignment(cluster: str, endpoints: Sequence[Endpoint], weights: Sequence[int] | None = None) -> Resource:
    """An assignment of healthy endpoints."""
    placed = [dataclasses.replace(endpoint, ip=endpoint.host) for endpoint in endpoints]
    count = len(placed)
    return AssignmentEncoder(cluster).encode(
        placed,
        np.array(weights if weights is not None else [1000] * count, dtype=np.int64),
        np.full(count, HEALTHY, dtype=np.int64),
        np.ones(count, dtype=np.bool_),
    )


def snapshot_of(policy: Policy, weights: Mapping[str, Sequence[int]] | None = None) -> Snapshot:
    """The snapshot of a policy, slices included, with these weights by cluster."""
    fleet = Fleet(policy_endpoints(policy))
    slices = [part for pool in policy.pools for part in slices_of(pool, fleet.pool(pool.name), ())]
    members = {pool.name: list(fleet.pool(pool.name)) for pool in policy.pools}
    members |= {part.cluster: [fleet.by_id[name] for name in part.ids] for part in slices}
    assignments = {name: assignment(name, found, (weights or {}).get(name)) for name, found in members.items()}
    return assemble(config(policy, None, {}, slices), assignments)


def with_resource(snapshot: Snapshot, type_url: str, extra: Resource) -> Snapshot:
    """A snapshot with one more resource, or another one in the place of its namesake. Nothing is checked."""
    merged: ResourceSet = resource_set({**snapshot.of(type_url).resources, extra.name: extra}.values())
    return Snapshot({**snapshot.sets, type_url: merged})


class Served:
    """A server and what it was told by clients."""

    def __init__(self, server: AdsServer, folder: Path, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.folder = folder
        self.session = session
        self.processes = Processes(folder)
        self.events: list[tuple[NodeInfo, Event]] = []
        self.envoy_port = 0

    def publish(self, snapshot: Snapshot) -> None:
        """To every proxy."""
        self.server.publish({"all": snapshot})

    async def settled(self, deadline_s: float = 5.0) -> None:
        """Wait until at least one proxy is connected and all accepted everything."""

        async def good() -> bool:
            return bool(self.server.proxies()) and await self.server.settled(0.05)

        await until(good, deadline_s, "proxies are in sync")

    async def start_envoy(self, node: str = "envoy-1", **options: Any) -> None:
        """A real Envoy that follows the server."""
        self.envoy_port = free_ports(1)[0]
        bootstrap = self.folder / f"{node}.yaml"
        bootstrap.write_text(
            render(
                BootstrapOptions(
                    node, ("127.0.0.1", self.server.port), admin=("127.0.0.1", self.envoy_port), **options
                )
            )
        )
        await self.processes.start(
            node, str(envoy_binary()), "-c", str(bootstrap), "--concurrency", "1",
            "--log-level", "warning", "--use-dynamic-base-id",
        )  # fmt: skip
        await until(self.envoy_up, 20, "Envoy is up")

    async def envoy_up(self) -> bool:
        self.processes.check()
        try:
            return "LIVE" in await self.page("/server_info")
        except aiohttp.ClientError:
            return False

    async def page(self, path: str) -> str:
        """A page of Envoy's admin server."""
        async with self.session.get(f"http://127.0.0.1:{self.envoy_port}{path}") as response:
            return await response.text()

    async def stat(self, name: str) -> int:
        """One of Envoy's counters or gauges."""
        for line in (await self.page(f"/stats?filter=^{name}$")).splitlines():
            return int(line.rpartition(" ")[2])
        return 0

    async def hosts(self, cluster: str) -> dict[int, int]:
        """Port -> weight, as Envoy has them."""
        found = {}
        for line in (await self.page(f"/clusters?filter={cluster}")).splitlines():
            name, address, *rest = line.split("::")
            if name == cluster and rest and rest[0] == "weight":
                found[int(address.rpartition(":")[2])] = int(rest[1])
        return found


@asynccontextmanager
async def serving(
    folder: Path, snapshot: Snapshot | None = None, *, credentials: Credentials | None = None
) -> AsyncIterator[Served]:
    """A server on a free port; everything that was started is stopped at the end."""
    hooks = Hooks()
    server = AdsServer(
        "127.0.0.1:0",
        credentials=credentials or Credentials(),
        group_of=lambda _: "all",
        clock=time.time,
        hooks=hooks,
    )
    await server.start()
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as cleanup:
        served = Served(server, folder, session)
        hooks.on_event = lambda node, event: served.events.append((node, event))
        cleanup.push_async_callback(server.stop, 0.1)
        cleanup.push_async_callback(served.processes.stop_all)
        if snapshot is not None:
            served.publish(snapshot)
        yield served
