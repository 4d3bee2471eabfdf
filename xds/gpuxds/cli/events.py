"""`gpuxds events`: what happens, as it happens."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, stream
from gpuxds.cli.layout import wrapped
from gpuxds.errors import ServerAway

HIDDEN = ("id", "at", "kind")
INDENT = 19
"""Columns of the time and the kind."""


def events(
    after: Annotated[
        int | None,
        typer.Option(help="Begin after this event id; 0 for all that are kept.", show_default="from now on"),
    ] = None,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Follow pushes, health changes, drains, rejections and reloads."""
    try:
        asyncio.run(follow(admin, "" if after is None else f"?after={after}", as_json))
    except KeyboardInterrupt:
        return


async def follow(admin: str, query: str, as_json: bool) -> None:
    """Print events. Raises ServerAway when the server ends."""
    async for event in parsed(stream(admin, f"/api/v1/events{query}")):
        typer.echo(json.dumps(event) if as_json else wrapped(line(event), sys.stdout, INDENT))
    raise ServerAway(f"the server at {admin} has ended; events go on with --after once it is back")


async def parsed(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The data of each server-sent event."""
    async for text in lines:
        if text.startswith("data: "):
            yield json.loads(text.removeprefix("data: "))


def line(event: dict[str, Any]) -> str:
    """One event in one line: when, what, and its fields."""
    clock = datetime.fromtimestamp(event["at"]).astimezone().strftime("%H:%M:%S")
    told = "  ".join(f"{name}={shown(value)}" for name, value in event.items() if name not in HIDDEN)
    return f"{clock}  {event['kind']:<8} {told}"


def shown(value: Any) -> str:
    """A value in few characters."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
