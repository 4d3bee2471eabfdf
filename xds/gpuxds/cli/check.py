"""`gpuxds check`: every problem of every policy file at once, or a short summary of what it says.

A file that is good by our rules is also compiled to Envoy's configuration and shown to the real Envoy, when there
is one: it has the last word on what it takes. With the address of a running server, what is overridden there is
told, since the policy that is checked is not what holds then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuxds.cli.client import call
from gpuxds.cli.exits import Status
from gpuxds.cli.validation import accepted, refusals
from gpuxds.engine.policy import usable
from gpuxds.errors import EnvironmentProblem, Misuse, PolicyError, Problem, Refused, ServerAway
from gpuxds.policy.loader import Loaded
from gpuxds.policy.schema import json_schema

STRATEGIES = "/api/v1/loadbalancer/strategy"


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Policy files.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
    envoy: Annotated[bool, typer.Option(help="Have the real Envoy validate it, when there is one.")] = True,
    admin: Annotated[
        str | None,
        typer.Option(
            envvar="GPUXDS_ADMIN",
            help="A running server, host:port or URL: tell what is overridden there.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check policy files; every mistake with its line and its remedy."""
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if not files:
        raise Misuse("name at least one policy file, or --schema")
    overrides = overridden(admin) if admin else {}
    found = [checked(file, overrides, envoy=envoy) for file in files]
    if as_json:
        typer.echo(json.dumps({"files": [asdict(finding) for finding in found]}, indent=2))
    else:
        for finding in found:
            tell(finding)
    if not all(finding.ok for finding in found):
        raise typer.Exit(Status.FAILED)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a policy file is good for."""

    file: str
    ok: bool
    problems: tuple[Problem, ...]
    """Errors and warnings; only errors keep a file from being used."""
    pools: tuple[str, ...]
    """A line per pool of a file that can be used."""
    envoy: str | None = None
    """What Envoy took, or why it was not asked; None: nobody wanted to know, or it refused something."""


def checked(file: Path, overrides: Mapping[str, str], *, envoy: bool) -> Finding:
    """Read a file as the server would, and have Envoy look at what it becomes."""
    note = None
    try:
        loaded = usable(file)
        if envoy:
            refused = refusals(loaded, file)
            if refused:
                return Finding(str(file), False, (*loaded.warnings, *refused), ())
            note = accepted(loaded)
    except PolicyError as error:
        return Finding(str(file), False, error.problems, ())
    except EnvironmentProblem as error:
        note = f"not validated by Envoy: {error}"
    return Finding(str(file), True, loaded.warnings, tuple(summary(loaded, overrides)), note)


def tell(finding: Finding) -> None:
    """Print what is wrong with a file, or what it says."""
    for problem in finding.problems:
        typer.echo(str(problem))
    if not finding.ok:
        errors = sum(problem.severity == "error" for problem in finding.problems)
        typer.echo(f"{finding.file}: not usable, {errors} error{'s' if errors != 1 else ''}", err=True)
        return
    typer.echo(f"{finding.file}: ok")
    for line in finding.pools:
        typer.echo(f"  pool {line}")
    if finding.envoy:
        typer.echo(f"  {finding.envoy}")


def overridden(admin: str) -> dict[str, str]:
    """Pool -> strategy that was set in the running server; empty, with a note, when it does not answer."""
    try:
        answer: dict[str, Any] = call(admin, STRATEGIES)
    except (ServerAway, Refused) as error:
        typer.echo(f"overrides are not known: {error}", err=True)
        return {}
    return {row["pool"]: row["strategy"]["name"] for row in answer["pools"] if row["source"] == "override"}


def summary(loaded: Loaded, overrides: Mapping[str, str]) -> list[str]:
    """A line per pool."""
    lines = []
    for pool in loaded.policy.pools:
        count = len(pool.endpoints)
        sources = [f"{count} endpoint{'s' if count != 1 else ''}"] if count else []
        if pool.file_sd:
            sources.append(f"file_sd {', '.join(pool.file_sd.files)}")
        there = overrides.get(pool.name)
        note = f" (overridden in the running server: {there})" if there else ""
        lines.append(f"{pool.name}: {' and '.join(sources)}, strategy {pool.strategy.name}{note}")
    return lines
