"""A server as an agent sees it: what it takes, and how it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from support.pages import vllm_page


class FakeServer:
    """The admin API as an agent sees it, and the engine's page beside it."""

    def __init__(self) -> None:
        self.beats: list[dict[str, Any]] = []
        self.registrations: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusal: tuple[int, str] | None = None
        """Status and words with which heartbeats are refused."""
        self.known: dict[str, dict[str, Any]] = {}
        self.page: bytes | None = vllm_page()
        self.url = ""

    async def heartbeat(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("X-API-Key"))
        if self.refusal is not None:
            return problem(*self.refusal)
        self.beats.append(await request.json())
        return web.json_response(
            {"id": request.match_info["id"], "health": "serving", "weight": 7, "lost_after_s": 60}
        )

    async def register(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.registrations.append(body)
        if body["id"] in self.known:
            return problem(409, "there is one already")
        self.known[body["id"]] = {"capacity": 256, **body}
        self.refusal = None
        return web.json_response(body, status=201)

    async def endpoint(self, request: web.Request) -> web.Response:
        found = self.known.get(request.match_info["id"])
        return problem(404, "no such endpoint") if found is None else web.json_response(found)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(status=503) if self.page is None else web.Response(body=self.page)


def problem(status: int, detail: str) -> web.Response:
    body = {"type": "about:blank", "title": "T", "status": status, "detail": detail, "instance": "/"}
    return web.json_response(body, status=status, content_type="application/problem+json")


@asynccontextmanager
async def serving() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.add_routes([
        web.post("/api/v1/endpoints/{id}/heartbeat", fake.heartbeat),
        web.post("/api/v1/endpoints", fake.register),
        web.get("/api/v1/endpoints/{id}", fake.endpoint),
        web.get("/metrics", fake.metrics),
    ])  # fmt: skip
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()
