"""`gpuxds reserve`: set endpoints aside for one holder; list, extend and release what is set aside.

The id is printed once, when a reservation is made. Whoever holds it sends it in a request header; everything else
here takes the reservation's name as well.
"""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import RenderableType

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.complete import pools, reservations
from gpuxds.cli.layout import Prose, show, table, tell
from gpuxds.errors import Misuse

RESERVE = "/api/v1/gpu/instances/reserve"
RESERVATIONS = "/api/v1/gpu/instances/reservations"


def reserve(
    count: Annotated[
        int | None, typer.Argument(min=1, max=16, help="Endpoints to set aside.", show_default="list reservations")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Whose.", show_default="the only pool", autocompletion=pools)
    ] = None,
    min_vram: Annotated[float | None, typer.Option(help="Least GPU memory in GB, all GPUs together.")] = None,
    max_price: Annotated[float | None, typer.Option(help="Highest price per hour.")] = None,
    provider: Annotated[str | None, typer.Option(help="Label `provider`.")] = None,
    region: Annotated[str | None, typer.Option(help="Label `region`.")] = None,
    model: Annotated[str | None, typer.Option(help="GPU model, or the model that is served.")] = None,
    ttl: Annotated[str | None, typer.Option(help="For how long, for example 30m.", show_default="1h")] = None,
    note: Annotated[str, typer.Option(help="What it is for; shown wherever it is.")] = "",
    extend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Let this reservation end --ttl from now.", autocompletion=reservations),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="End this reservation; its endpoints serve everybody.", autocompletion=reservations
        ),
    ] = None,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Set endpoints aside for requests that carry an id.

    Without a count: list what is set aside.
    """
    if sum(asked is not None for asked in (count, extend, release)) > 1:
        raise Misuse("one at a time: give a count to reserve, --extend NAME, or --release NAME")
    lasting: dict[str, Any] = {} if ttl is None else {"ttl": ttl}
    if extend is not None:
        answer = call(admin, f"{RESERVATIONS}/{quote(extend, safe='')}/extend", lasting)
        tell(answer, as_json, f"{answer['name']}: {left(answer)} from now")
    elif release is not None:
        answer = call(admin, f"{RESERVATIONS}/{quote(release, safe='')}", method="DELETE")
        tell(answer, as_json, f"{answer['name']}: released; {', '.join(answer['endpoints'])} serve everybody again")
    elif count is not None:
        wanted = {"min_vram": min_vram, "max_price": max_price, "provider": provider, "region": region}
        filters = {name: value for name, value in (wanted | {"model": model}).items() if value is not None}
        body = {"count": count, "filters": filters, "note": note, **lasting}
        answer = call(admin, RESERVE, body if pool is None else {**body, "pool": pool})
        tell(answer, as_json, made(answer))
    elif (answer := call(admin, RESERVATIONS))["reservations"]:
        show(answer, as_json, lambda width: listing(answer, width))
    else:
        tell(answer, as_json, "nothing is reserved")


def made(answer: dict[str, Any]) -> str:
    """A new reservation, and how to use it."""
    lines = [
        f"{answer['name']}: {', '.join(answer['endpoints'])} for {left(answer)}",
        *(f"  not more: {reason}" for reason in answer["reasons"]),
        "Requests with this header, and no others, are served there:",
        f"  {answer['header']}: {answer['reservation_id']}",
        "The id is not shown again.",
    ]
    if not answer["acknowledged"]:
        lines.insert(1, "  not every proxy has acknowledged yet")
    return "\n".join(lines)


def listing(answer: dict[str, Any], width: int) -> RenderableType:
    """Every reservation in force."""
    rows = []
    for row in answer["reservations"]:
        gone = set(row["missing"])
        names = ", ".join(f"{name} (gone)" if name in gone else name for name in row["endpoints"])
        rows.append([row["name"], row["pool"], left(row), f"{names}  {row['note']}".rstrip()])
    return table(("reservation", "pool", "ends in", "endpoints"), rows, width, right=("ends in",), prose=Prose.WRAP)


def left(row: dict[str, Any]) -> str:
    """How long a reservation still lasts."""
    seconds = max(0.0, row["expires_at"] - time.time())
    for unit, size_s, from_s in (("h", 3600, 7200), ("min", 60, 120)):
        if seconds >= from_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
