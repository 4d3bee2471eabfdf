"""`gpuxds lb-strategy`: show how load is spread, or override it while the server runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.complete import pools, strategies
from gpuxds.cli.layout import show
from gpuxds.cli.tables import strategies_table
from gpuxds.errors import Misuse

PATH = "/api/v1/loadbalancer/strategy"


def lb_strategy(
    name: Annotated[
        str | None, typer.Argument(help="Strategy to set.", show_default="show them", autocompletion=strategies)
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="One pool only.", show_default="all", autocompletion=pools)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Go back to what the policy says.")] = False,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show how load is spread, or override it until cleared.

    An override survives reloads of the policy and restarts of the server.
    """
    if name is not None and clear:
        raise Misuse("give a strategy or --clear, not both")
    if name is None and not clear:
        answer = call(admin, PATH)
    else:
        body: dict[str, Any] = {"strategy": name}
        if pool is not None:
            body["pool"] = pool
        answer = call(admin, PATH, body, "PUT")
    asked = {"pools": [row for row in answer["pools"] if pool in (None, row["pool"])]}
    show(asked, as_json, lambda width: strategies_table(asked, width))
