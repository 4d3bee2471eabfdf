"""One process that serves many fake GPU servers, each on its own port, and takes faults over HTTP.

GET  /fake                  every server: type, port, what it does now, its faults
POST /fake/NAME/faults      change faults: {"throttle": 2.0}, {"die": true}, ...
"""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from gpuxds.simulator.gpus import TYPES
from gpuxds.simulator.server import FakeGpuServer


@dataclass(frozen=True, slots=True)
class Spec:
    """One server to fake."""

    name: str
    gpu: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Spec:
        """From `name=TYPE:PORT`. Raises ValueError saying what is wrong."""
        name, _, rest = text.partition("=")
        gpu, _, port = rest.rpartition(":")
        if gpu not in TYPES or not port.isdigit():
            raise ValueError(f"{text!r}: write name=TYPE:PORT with a TYPE of {', '.join(TYPES)}")
        return cls(name, gpu, int(port))


class FakeFleet:
    """Fake servers and their control port. An async context manager."""

    def __init__(self, specs: Sequence[Spec], control_port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.control_port = control_port
        self.servers = {
            spec.name: FakeGpuServer(
                spec.name,
                TYPES[spec.gpu],
                host,
                spec.port,
                random.Random(zlib.crc32(spec.name.encode())),  # noqa: S311
            )
            for spec in specs
        }
        self.schedulers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> FakeFleet:
        for server in self.servers.values():
            await server.listen()
            self.schedulers.append(asyncio.ensure_future(server.schedule()))
        app = web.Application()
        app.add_routes([web.get("/fake", self.show), web.post("/fake/{name}/faults", self.change)])
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.host, self.control_port).start()
        self.control_port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.schedulers:
            task.cancel()
        await asyncio.gather(*self.schedulers, return_exceptions=True)
        await self.runner.cleanup()
        for server in self.servers.values():
            await server.close()

    async def show(self, _: web.Request) -> web.Response:
        """Every server."""
        return web.json_response({name: state(server) for name, server in self.servers.items()})

    async def change(self, request: web.Request) -> web.Response:
        """Change faults of one server."""
        server = self.servers.get(request.match_info["name"])
        if server is None:
            return web.json_response({"error": f"no such server; there are {', '.join(self.servers)}"}, status=404)
        try:
            wishes = json.loads(await request.read())
            if not isinstance(wishes, dict):
                raise ValueError('send an object such as {"throttle": 2.0}')
            await server.set_faults(wishes)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=422)
        return web.json_response(state(server))


def state(server: FakeGpuServer) -> dict[str, Any]:
    """One server for people."""
    return {
        "gpu": server.gpu.name,
        "port": server.port,
        "running": server.replica.running,
        "waiting": len(server.replica.waiting),
        "requests": server.requests,
        "most_at_once": server.most_at_once,
        "faults": asdict(server.faults),
    }
