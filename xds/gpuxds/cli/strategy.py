"""`gpuxds lb-strategy`: show how load is spread, or override it while the server runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.fleet import show
from gpuxds.cli.tables import console, strategies_table
from gpuxds.errors import EnvironmentProblem

PATH = "/api/v1/loadbalancer/strategy"


def lb_strategy(
    name: Annotated[str | None, typer.Argument(help="Strategy to set.  [default: show them]")] = None,
    pool: Annotated[str | None, typer.Option(help="One pool only.  [default: all]")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Go back to what the policy says.")] = False,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show how load is spread, or override it until cleared, over reloads and restarts."""
    if name is not None and clear:
        raise EnvironmentProblem("give a strategy or --clear, not both")
    if name is None and not clear:
        answer = call(admin, PATH)
    else:
        body: dict[str, Any] = {"strategy": name}
        if pool is not None:
            body["pool"] = pool
        answer = call(admin, PATH, body, "PUT")
    if not show(answer, as_json):
        rows = [row for row in answer["pools"] if pool in (None, row["pool"])]
        console().print(strategies_table({"pools": rows}))
