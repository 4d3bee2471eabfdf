"""The `gpuxds` program: its commands, and how failures reach a person.

Errors that gpuxds raises on purpose end the program with their message and status 1; a traceback is left
for defects.
"""

from __future__ import annotations

import sys

import typer

from gpuxds.cli import check
from gpuxds.errors import GpuxdsError

app = typer.Typer(
    name="gpuxds",
    help="GPU-aware control plane for Envoy: live GPU stats become weights and health, pushed over xDS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(check.check)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except GpuxdsError as error:
        print(f"gpuxds: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
