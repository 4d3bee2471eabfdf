"""Small HTTP servers in the test's process that misbehave on demand and remember what they were sent."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(slots=True)
class Upstream:
    """One server. Change its attributes while it runs."""

    delay_s: float = 0.0
    """Before the first byte."""
    status: int = 200
    hang: bool = False
    """Requests are accepted and never answered."""
    chunks: int = 0
    """Chunks after the first byte; 0: the answer comes at once, as one piece."""
    gap_s: float = 0.0
    """Before each further chunk."""
    port: int = 0
    seen: list[Mapping[str, str]] = field(default_factory=list)
    """Headers of each request."""
    bodies: list[int] = field(default_factory=list)
    """Bytes of each request."""
    open: int = 0
    """Requests it works on now."""
    runner: web.AppRunner | None = None

    async def listen(self) -> None:
        """Open a free port."""
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.port = self.runner.addresses[0][1]

    async def die(self) -> None:
        """Close the port and reset what is open, as a killed process would."""
        runner, self.runner = self.runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Do as told."""
        self.bodies.append(len(await request.read()))
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        self.open += 1
        try:
            await asyncio.sleep(3600 if self.hang else self.delay_s)
            if not self.chunks:
                return web.Response(status=self.status, text=f"{self.port}")
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for number in range(self.chunks):
                await response.write(f"data: {number}\n\n".encode())
                await asyncio.sleep(self.gap_s)
            return response
        finally:
            self.open -= 1


@asynccontextmanager
async def upstreams(count: int) -> AsyncIterator[list[Upstream]]:
    """Servers on free ports."""
    async with contextlib.AsyncExitStack() as cleanup:
        made = [Upstream() for _ in range(count)]
        for server in made:
            await server.listen()
            cleanup.push_async_callback(server.die)
        yield made


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got. `error` says how it broke off, if it did."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    error: str = ""


async def ask(
    session: aiohttp.ClientSession, url: str, body: bytes | dict[str, Any] = b"{}", **headers: str
) -> Answer:
    """One request; header names are written with underscores."""
    started = time.monotonic()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    content: dict[str, Any] = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
    async with session.post(url, headers=sent, **content) as response:
        text, error = "", ""
        try:
            async for chunk in response.content.iter_any():
                text += chunk.decode()
        except aiohttp.ClientPayloadError as broken:
            error = str(broken)
        return Answer(response.status, response.headers, text, time.monotonic() - started, error)
