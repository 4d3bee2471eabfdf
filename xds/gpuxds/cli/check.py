"""`gpuxds check`: every problem of every policy file at once, or a short summary of what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gpuxds.engine.policy import usable
from gpuxds.errors import PolicyError
from gpuxds.policy.loader import Loaded
from gpuxds.policy.schema import json_schema


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Policy files.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
) -> None:
    """Check policy files; exit 1 when any cannot be used."""
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if not files:
        raise typer.BadParameter("name at least one policy file, or --schema")
    good = [check_one(file) for file in files]
    if not all(good):
        raise typer.Exit(1)


def check_one(file: Path) -> bool:
    """Print what is wrong with a file, or what it says; whether it can be used."""
    try:
        loaded = usable(file)
    except PolicyError as error:
        for problem in error.problems:
            typer.echo(str(problem))
        errors = sum(problem.severity == "error" for problem in error.problems)
        typer.echo(f"{file}: not usable, {errors} error{'s' if errors != 1 else ''}", err=True)
        return False
    for problem in loaded.warnings:
        typer.echo(str(problem))
    typer.echo(f"{file}: ok")
    for line in summary(loaded):
        typer.echo(f"  {line}")
    return True


def summary(loaded: Loaded) -> list[str]:
    """A line per pool."""
    lines = []
    for pool in loaded.policy.pools:
        count = len(pool.endpoints)
        sources = [f"{count} endpoint{'s' if count != 1 else ''}"] if count else []
        if pool.file_sd:
            sources.append(f"file_sd {', '.join(pool.file_sd.files)}")
        lines.append(f"pool {pool.name}: {' and '.join(sources)}, strategy {pool.strategy.name}")
    return lines
