"""`gpuxds endpoints`, `proxies` and `explain`: what a running server knows and why it decided as it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.complete import endpoint_ids
from gpuxds.cli.layout import show
from gpuxds.cli.tables import endpoints_table, explanation, proxies_table
from gpuxds.errors import Misuse


def endpoints(admin: Admin = DEFAULT, as_json: AsJson = False) -> None:
    """List every endpoint with its health, weight and load."""
    answer = call(admin, "/api/v1/endpoints")
    show(answer, as_json, lambda width: endpoints_table(answer, width))


def proxies(admin: Admin = DEFAULT, as_json: AsJson = False) -> None:
    """List connected proxies: sent, acknowledged, rejected."""
    answer = call(admin, "/api/v1/proxies")
    if not answer["proxies"] and not as_json:
        typer.echo("no proxy is connected; print a configuration for one with: gpuxds bootstrap --node ID")
        return
    show(answer, as_json, lambda width: proxies_table(answer, width))


def explain(
    endpoint: Annotated[
        str | None,
        typer.Argument(
            help="Endpoint id; a policy file with --signals.", show_default=False, autocompletion=endpoint_ids
        ),
    ] = None,
    signals: Annotated[
        Path | None,
        typer.Option(help="Signals recorded from /api/v1/signals: explain a policy file without a server."),
    ] = None,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Say why each weight is what it is, factor by factor."""
    if signals is not None:
        from gpuxds.cli.offline import explain_offline

        if endpoint is None:
            raise Misuse("name the policy file: gpuxds explain POLICY --signals FILE")
        answer = explain_offline(Path(endpoint), signals)
    else:
        query = "" if endpoint is None else f"?endpoint={quote(endpoint, safe='')}"
        answer = call(admin, f"/api/v1/explain{query}")
    show(answer, as_json, lambda width: explanation(answer, width))
