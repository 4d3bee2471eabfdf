"""`gpuxds drain` and `undrain`: take an endpoint out of service and put it back."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.live import Live

from gpuxds.cli.client import DEFAULT, Admin, call

POLL_S = 0.5

Endpoint = Annotated[str, typer.Argument(help="Endpoint id, as `gpuxds endpoints` shows it.", show_default=False)]


def drain(
    endpoint: Endpoint,
    deadline: Annotated[
        str | None, typer.Option(help="Leave anyway after this long, for example 5m.  [default: the pool's]")
    ] = None,
    reason: Annotated[str, typer.Option(help="Shown by `explain` and in the log.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing is in flight any more.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even when nobody is left to serve the pool.")] = False,
    admin: Admin = DEFAULT,
) -> None:
    """Send an endpoint no new requests; it leaves when those in flight are done."""
    body: dict[str, Any] = {"reason": reason, "force": force}
    if deadline is not None:
        body["deadline"] = deadline
    path = f"/api/v1/endpoints/{quote(endpoint, safe='')}"
    answer = call(admin, f"{path}/drain", body)
    told = "proxies acknowledged" if answer["acknowledged"] else "not every proxy has acknowledged yet"
    typer.echo(f"{endpoint}: draining, no new requests ({told}); {progress(answer)}")
    if wait:
        follow(admin, path)


def follow(admin: str, path: str) -> None:
    """Show progress until the endpoint is out, or somebody put it back."""
    console = Console(highlight=False, markup=False)
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        while True:
            row = call(admin, path)
            if console.is_terminal:
                live.update(f"{row['id']}: {progress(row)}", refresh=True)
            if row["health"] != "draining":
                break
            time.sleep(POLL_S)
    typer.echo(f"{row['id']}: {'out of service' if not row['in_eds'] else row['health']}")


def progress(row: dict[str, Any]) -> str:
    """What is still in flight, and how long there is."""
    signals = row["signals"]
    running, waiting = signals["running"], signals["waiting"]
    in_flight = "in flight unknown" if running is None else f"{running + (waiting or 0):.0f} in flight"
    if row["drain"] is None:
        return in_flight
    if not row["in_eds"]:
        return f"{in_flight}, out of service"
    left_s = max(0.0, row["drain"]["deadline_at"] - time.time())
    return f"{in_flight}, leaves in {left_s:.0f} s at the latest"


def undrain(endpoint: Endpoint, admin: Admin = DEFAULT) -> None:
    """Put an endpoint back to work; its weight is ramped up."""
    answer = call(admin, f"/api/v1/endpoints/{quote(endpoint, safe='')}/undrain", {})
    typer.echo(f"{endpoint}: {'back in service' if answer['was_draining'] else 'was not draining'}")
