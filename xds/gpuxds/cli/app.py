"""The `gpuxds` program: its commands, and how failures reach a person.

A command's module is imported when the command runs, so that `gpuxds check` does not pay for gRPC and numpy.
Errors that gpuxds raises on purpose end the program with their message and status 1; a traceback is left for
defects.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpuxds import __version__
from gpuxds.errors import GpuxdsError

COMMANDS = {
    "demo": "gpuxds.cli.demo.command",
    "serve": "gpuxds.cli.serve",
    "check": "gpuxds.cli.check",
    "bootstrap": "gpuxds.cli.bootstrap",
    "endpoints": "gpuxds.cli.fleet",
    "top": "gpuxds.cli.top",
    "proxies": "gpuxds.cli.fleet",
    "explain": "gpuxds.cli.fleet",
    "events": "gpuxds.cli.events",
    "lb-strategy": "gpuxds.cli.strategy",
    "load": "gpuxds.cli.load",
    "drain": "gpuxds.cli.drain",
    "undrain": "gpuxds.cli.drain",
    "reserve": "gpuxds.cli.reserve",
    "agent": "gpuxds.cli.agent.command",
}
"""Command -> module with a function of that name (`-` as `_`), in the order of the help page."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported on use."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # typer looks here for near misses of a command that does not exist.
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help page."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None makes typer suggest near misses."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(pretty_exceptions_enable=False)
        single.command(cmd_name)(getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_")))
        return typer.main.get_command(single)


app = typer.Typer(
    name="gpuxds",
    cls=LazyGroup,
    help="GPU-aware control plane for Envoy: live GPU stats become weights and health, pushed over xDS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(asked: bool) -> None:
    """Answer `--version`, alone on its line, so that scripts and image labels can take it as it is."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """GPU-aware control plane for Envoy: live GPU stats become weights and health, pushed over xDS."""


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except GpuxdsError as error:
        print(f"gpuxds: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
