"""`gpuxds drain` and `undrain`: take an endpoint out of service and put it back."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.complete import endpoint_ids
from gpuxds.cli.layout import tell

POLL_S = 0.5

Endpoint = Annotated[
    str,
    typer.Argument(
        help="Endpoint id, as `gpuxds endpoints` shows it.", show_default=False, autocompletion=endpoint_ids
    ),
]


def drain(
    endpoint: Endpoint,
    deadline: Annotated[
        str | None, typer.Option(help="Leave anyway after this long, for example 5m.", show_default="the pool's")
    ] = None,
    reason: Annotated[str, typer.Option(help="Shown by `explain` and in the log.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing is in flight any more.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even when nobody is left to serve the pool.")] = False,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Send an endpoint no new requests; it leaves when it is idle."""
    body: dict[str, Any] = {"reason": reason, "force": force}
    if deadline is not None:
        body["deadline"] = deadline
    path = f"/api/v1/endpoints/{quote(endpoint, safe='')}"
    answer = call(admin, f"{path}/drain", body)
    if not (wait and as_json):
        told = "proxies acknowledged" if answer["acknowledged"] else "not every proxy has acknowledged yet"
        tell(answer, as_json, f"{endpoint}: draining, no new requests ({told}); {progress(answer)}")
    if wait:
        answer = follow(admin, path)
        tell(answer, as_json, f"{endpoint}: {'out of service' if not answer['in_eds'] else answer['health']}")


def follow(admin: str, path: str) -> dict[str, Any]:
    """Show progress until the endpoint is out, or somebody put it back; how it is then."""
    out = Console(stderr=True, highlight=False, markup=False)
    with out.status("") as status:
        while True:
            row = call(admin, path)
            status.update(f"{row['id']}: {progress(row)}")
            if row["health"] != "draining":
                return row
            time.sleep(POLL_S)


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


def undrain(endpoint: Endpoint, admin: Admin = DEFAULT, as_json: AsJson = False) -> None:
    """Put an endpoint back to work; its weight is ramped up."""
    answer = call(admin, f"/api/v1/endpoints/{quote(endpoint, safe='')}/undrain", {})
    tell(answer, as_json, f"{endpoint}: {'back in service' if answer['was_draining'] else 'was not draining'}")
