"""Sends heartbeats until it is stopped: read what can be read, send it, wait, again.

Nothing that fails ends it. Each part that is away (the GPUs, the engine's page, the server) is told once, and once
more when it is back. Between heartbeats it waits an interval, spread a little so that the agents of a fleet do not
beat in step; while the server is away it waits longer each time, up to half a minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog

from gpuxds.cli.agent.engine import Engine
from gpuxds.cli.agent.registration import Registration, register
from gpuxds.cli.agent.watch import GpuWatch, Readings
from gpuxds.cli.client import ask
from gpuxds.errors import Conflict, GpuxdsError, Refused, ServerAway, SignalError
from gpuxds.signals.heartbeat import Heartbeat

log = structlog.get_logger("gpuxds")

JITTER = 0.1
LONGEST_PAUSE_S = 30.0
SERVER_FAILURES = (ServerAway, Refused, Conflict)
PAGE_FAILURES = (SignalError, aiohttp.ClientError, OSError, TimeoutError)
NOT_FOUND = 404


@dataclass(slots=True)
class Outage:
    """Says once that a part is away, and once that it is back."""

    part: str
    meanwhile: str
    """What goes on without it."""
    why: str = ""

    def began(self, error: BaseException) -> None:
        """It cannot be had; a new reason is told again."""
        why = str(error) or type(error).__name__
        if why != self.why:
            word = "refused" if isinstance(error, Refused | Conflict) else "away"
            log.warning(f"{self.part}.{word}", error=why, meanwhile=self.meanwhile)
        self.why = why

    def ended(self) -> None:
        """It can be had."""
        if self.why:
            log.info(f"{self.part}.back")
        self.why = ""


@dataclass(slots=True)
class Agent:
    """One endpoint's agent. Without `engine` it reports GPUs alone."""

    endpoint: str
    admin: str
    interval_s: float
    engine: Engine | None
    gpus: GpuWatch
    capacity: int | None
    registration: Registration | None
    clock: Callable[[], float]
    """Seconds that never jump."""
    rng: random.Random = field(default_factory=random.Random)
    page_outage: Outage = field(default_factory=lambda: Outage("engine", "heartbeats go on without it"))
    gpu_outage: Outage = field(default_factory=lambda: Outage("gpus", "heartbeats go on without them"))
    server_outage: Outage = field(default_factory=lambda: Outage("server", "trying again"))
    health: str = ""
    """As the server said last; it cannot say until its first decision."""

    async def run(self, client: aiohttp.ClientSession) -> None:
        """Register if asked to, then beat until cancelled. Raises Misuse when the address is none."""
        failures, registered = 0, self.registration is None
        while True:
            try:
                if not registered and self.registration is not None:
                    await register(client, self.admin, self.registration)
                    registered = True
                self.note(await self.send(client, await self.heartbeat(client)))
                failures = 0
                self.server_outage.ended()
            except SERVER_FAILURES as error:
                failures += 1
                registered = registered and not (self.registration is not None and unknown(error))
                self.server_outage.began(error)
            await asyncio.sleep(pause_s(self.interval_s, failures, self.rng))

    async def heartbeat(self, client: aiohttp.ClientSession) -> dict[str, Any]:
        """What can be said now."""
        engine, gpus = await asyncio.gather(self.read_engine(client), self.read_gpus())
        own = {"gpus": None if gpus is None else list(gpus), "capacity": self.capacity}
        return (engine or Heartbeat()).model_copy(update=own).model_dump()

    async def read_engine(self, client: aiohttp.ClientSession) -> Heartbeat | None:
        """The engine, or None when its page cannot be had."""
        if self.engine is None:
            return None
        try:
            reading = await self.engine.read(client, self.clock())
        except PAGE_FAILURES as error:
            self.page_outage.began(error)
            return None
        self.page_outage.ended()
        return reading

    async def read_gpus(self) -> Readings | None:
        """The GPUs, or None when they cannot be read."""
        try:
            readings = await self.gpus.read()
        except SignalError as error:
            self.gpu_outage.began(error)
            return None
        self.gpu_outage.ended()
        return readings

    async def send(self, client: aiohttp.ClientSession, heartbeat: dict[str, Any]) -> dict[str, Any]:
        """The server's answer. Raises ServerAway or Refused."""
        path = f"/api/v1/endpoints/{quote(self.endpoint, safe='')}/heartbeat"
        return await ask(client, self.admin, path, heartbeat)

    def note(self, answer: dict[str, Any]) -> None:
        """Tell what changed, and warn when the server expects more frequent heartbeats."""
        if not self.health and answer["lost_after_s"] < 2 * self.interval_s:
            log.warning("interval.too_long", interval_s=self.interval_s, lost_after_s=answer["lost_after_s"])
        health = answer["health"]
        if health is not None and health != self.health:
            log.info("health", endpoint=self.endpoint, health=health, weight=answer["weight"])
            self.health = health


def unknown(error: GpuxdsError) -> bool:
    """Whether the server does not know the endpoint."""
    return isinstance(error, Refused) and error.status == NOT_FOUND


def pause_s(interval_s: float, failures: int, rng: random.Random) -> float:
    """Seconds until the next try after so many failures in a row."""
    if not failures:
        return interval_s * rng.uniform(1 - JITTER, 1 + JITTER)
    longest_s = max(LONGEST_PAUSE_S, interval_s)
    return min(longest_s, interval_s * 2.0 ** min(failures - 1, 16)) * rng.uniform(0.5, 1.0)
