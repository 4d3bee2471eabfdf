"""What the shell offers when Tab is pressed: ids and pools from the running server, strategies and presets by name.

Asking is quick or it is not done: a server that is away, refuses or is slow leaves nothing to offer and says
nothing, since words in the middle of a command line help nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from gpuxds.cli.client import DEFAULT, fetch
from gpuxds.errors import GpuxdsError

PATIENCE_S = 0.7
Offers = list[tuple[str, str]]
"""What may stand there, and a word about it where the shell shows one."""


def endpoint_ids(ctx: typer.Context, incomplete: str) -> Offers:
    """Endpoints of the server, with their health and pool."""
    rows = asked(ctx, "/api/v1/endpoints").get("endpoints", [])
    return matching([(row["id"], f"{row['health']}, pool {row['pool']}") for row in rows], incomplete)


def pools(ctx: typer.Context, incomplete: str) -> Offers:
    """Pools of the server, with their strategies."""
    rows = asked(ctx, "/api/v1/loadbalancer/strategy").get("pools", [])
    return matching([(row["pool"], row["strategy"]["name"]) for row in rows], incomplete)


def reservations(ctx: typer.Context, incomplete: str) -> Offers:
    """Reservations of the server, with what is set aside."""
    rows = asked(ctx, "/api/v1/gpu/instances/reservations").get("reservations", [])
    return matching([(row["name"], ", ".join(row["endpoints"])) for row in rows], incomplete)


def strategies(incomplete: str) -> Offers:
    """Every strategy."""
    from gpuxds.policy.strategies import NAMES

    return matching([(name, "") for name in NAMES], incomplete)


def engines(incomplete: str) -> Offers:
    """Every preset of an engine."""
    from gpuxds.signals.presets import presets

    return matching([(name, "") for name in presets()], incomplete)


def matching(offers: Offers, incomplete: str) -> Offers:
    """Those that begin with what is there already."""
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def asked(ctx: typer.Context, path: str) -> dict[str, Any]:
    """The server's answer; empty when there is none in no time."""
    admin = ctx.params.get("admin") or DEFAULT

    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            return await fetch(admin, path)

    try:
        return asyncio.run(ask())
    except (GpuxdsError, TimeoutError):
        return {}
