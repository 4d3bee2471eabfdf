"""`gpuxds check`: every problem of every policy file at once, or a short summary of what it says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpuxds.cli.exits import Status
from gpuxds.engine.policy import usable
from gpuxds.errors import Misuse, PolicyError, Problem
from gpuxds.policy.loader import Loaded
from gpuxds.policy.schema import json_schema


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Policy files.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check policy files; every mistake with its line and its remedy."""
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if not files:
        raise Misuse("name at least one policy file, or --schema")
    found = [checked(file) for file in files]
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


def checked(file: Path) -> Finding:
    """Read a file as the server would."""
    try:
        loaded = usable(file)
    except PolicyError as error:
        return Finding(str(file), False, error.problems, ())
    return Finding(str(file), True, loaded.warnings, tuple(summary(loaded)))


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


def summary(loaded: Loaded) -> list[str]:
    """A line per pool."""
    lines = []
    for pool in loaded.policy.pools:
        count = len(pool.endpoints)
        sources = [f"{count} endpoint{'s' if count != 1 else ''}"] if count else []
        if pool.file_sd:
            sources.append(f"file_sd {', '.join(pool.file_sd.files)}")
        lines.append(f"{pool.name}: {' and '.join(sources)}, strategy {pool.strategy.name}")
    return lines
