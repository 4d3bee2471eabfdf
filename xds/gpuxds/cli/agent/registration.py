"""Registers the endpoint an agent speaks for, so that a new GPU host needs no change of the policy.

A registration that says the same already is fine: the agent was started before. One that says something else is
refused, since two hosts with one id would take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog

from gpuxds.cli.client import ask
from gpuxds.errors import Conflict, Refused

log = structlog.get_logger("gpuxds")

CONFLICT, NOT_FOUND = 409, 404


@dataclass(frozen=True, slots=True)
class Registration:
    """What the server is told of the endpoint."""

    endpoint: str
    pool: str
    address: str
    gpu_model: str
    gpu_count: int
    capacity: int | None

    def body(self) -> dict[str, Any]:
        """As the API takes it."""
        found: dict[str, Any] = {
            "id": self.endpoint,
            "pool": self.pool,
            "address": self.address,
            "gpu": {"model": self.gpu_model, "count": self.gpu_count},
            "metrics": {"source": "heartbeat"},
        }
        return found if self.capacity is None else found | {"capacity": self.capacity}


async def register(client: aiohttp.ClientSession, admin: str, wanted: Registration) -> None:
    """Register, or see that it is done. Raises ServerAway, Refused, or Conflict when it says something else."""
    try:
        await ask(client, admin, "/api/v1/endpoints", wanted.body())
    except Refused as refusal:
        if refusal.status != CONFLICT:
            raise
        there = await existing(client, admin, wanted.endpoint)
        if there is None:
            raise
        compare(wanted, there)
        log.info("registered.already", endpoint=wanted.endpoint, pool=wanted.pool, address=wanted.address)
    else:
        log.info("registered", endpoint=wanted.endpoint, pool=wanted.pool, address=wanted.address)


async def existing(client: aiohttp.ClientSession, admin: str, endpoint: str) -> dict[str, Any] | None:
    """The endpoint as the server has it; None when it has not."""
    try:
        return await ask(client, admin, f"/api/v1/endpoints/{quote(endpoint, safe='')}")
    except Refused as refusal:
        if refusal.status == NOT_FOUND:
            return None
        raise


def compare(wanted: Registration, there: dict[str, Any]) -> None:
    """Raises Conflict naming every difference."""
    pairs = {
        "pool": (there["pool"], wanted.pool),
        "address": (there["address"], wanted.address),
        "gpu.model": (there["gpu"]["model"], wanted.gpu_model),
        "gpu.count": (there["gpu"]["count"], wanted.gpu_count),
    }
    if wanted.capacity is not None:
        pairs["capacity"] = (there["capacity"], wanted.capacity)
    differences = [f"{name} {has!r} there, {wants!r} here" for name, (has, wants) in pairs.items() if has != wants]
    if differences:
        raise Conflict(
            f"{wanted.endpoint} is registered already, as something else: {'; '.join(differences)}. Choose another "
            "--endpoint, or change the registration with PUT /api/v1/endpoints/{id}"
        )
