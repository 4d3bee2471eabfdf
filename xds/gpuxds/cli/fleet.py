"""`gpuxds endpoints`, `proxies` and `explain`: what a running server knows and why it decided as it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.tables import console, endpoints_table, explanation, proxies_table
from gpuxds.errors import EnvironmentProblem


def endpoints(admin: Admin = DEFAULT, as_json: AsJson = False) -> None:
    """List every endpoint with its health, weight and load."""
    answer = call(admin, "/api/v1/endpoints")
    if not show(answer, as_json):
        console().print(endpoints_table(answer))


def proxies(admin: Admin = DEFAULT, as_json: AsJson = False) -> None:
    """List connected proxies: versions sent, acknowledged, and rejected with Envoy's own words."""
    answer = call(admin, "/api/v1/proxies")
    if show(answer, as_json):
        return
    if not answer["proxies"]:
        typer.echo("no proxy is connected; print a configuration for one with: gpuxds bootstrap --node ID")
        return
    console().print(proxies_table(answer))


def explain(
    endpoint: Annotated[
        str | None, typer.Argument(help="Endpoint id; a policy file with --signals.", show_default=False)
    ] = None,
    signals: Annotated[
        Path | None,
        typer.Option(help="Signals recorded from /api/v1/signals: explain a policy file without a server."),
    ] = None,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Say why each weight is what it is: the factors, their product, and the age of every input."""
    if signals is not None:
        from gpuxds.cli.offline import explain_offline

        if endpoint is None:
            raise EnvironmentProblem("name the policy file: gpuxds explain POLICY --signals FILE")
        answer = explain_offline(Path(endpoint), signals)
    else:
        query = "" if endpoint is None else f"?endpoint={quote(endpoint, safe='')}"
        answer = call(admin, f"/api/v1/explain{query}")
    if not show(answer, as_json):
        console().print(explanation(answer))


def show(answer: dict[str, Any], as_json: bool) -> bool:
    """Print the answer as JSON when asked; whether it was."""
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    return as_json
