"""The `gpuxds` program: its commands, and how failures reach a person or a script.

A command's module is imported when the command runs, so that `gpuxds check` does not pay for gRPC and numpy. Help
pages and completion of command names read the table below and import none of them. Errors that gpuxds raises on
purpose end the program with their message and a status (`exits.py`); a traceback is left for defects.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gpuxds import __version__
from gpuxds.cli.exits import EPILOG, status_of, told
from gpuxds.errors import GpuxdsError

BEGIN, LOOK, CHANGE, HOST = "Begin", "Look", "Change", "On each GPU host"


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its module, which has a function of its name (`-` as `_`), and its line on the help page."""

    module: str
    panel: str
    summary: str
    """The first line of the function's docstring."""


COMMANDS = {
    "demo": Entry("demo.command", BEGIN, "A story: a real Envoy on five fake GPU servers, with faults."),
    "check": Entry("check", BEGIN, "Check policy files; every mistake with its line and its remedy."),
    "serve": Entry("serve", BEGIN, "Serve a policy to Envoy over ADS until stopped."),
    "bootstrap": Entry("bootstrap", BEGIN, "Print an Envoy configuration that follows this control plane."),
    "endpoints": Entry("fleet", LOOK, "List every endpoint with its health, weight and load."),
    "top": Entry("top", LOOK, "Watch the fleet live: sort, filter, explain, drain by keyboard."),
    "explain": Entry("fleet", LOOK, "Say why each weight is what it is, factor by factor."),
    "proxies": Entry("fleet", LOOK, "List connected proxies: sent, acknowledged, rejected."),
    "load": Entry("load", LOOK, "Show requests in flight, sent, failed: per server or provider."),
    "events": Entry("events", LOOK, "Follow pushes, health changes, drains, rejections and reloads."),
    "drain": Entry("drain", CHANGE, "Send an endpoint no new requests; it leaves when it is idle."),
    "undrain": Entry("drain", CHANGE, "Put an endpoint back to work; its weight is ramped up."),
    "reserve": Entry("reserve", CHANGE, "Set endpoints aside for requests that carry an id."),
    "lb-strategy": Entry("strategy", CHANGE, "Show how load is spread, or override it until cleared."),
    "agent": Entry("agent.command", HOST, "Report this GPU host and its engine to a running server."),
}
"""In the order of the help page."""

START = """\
Begin with one of these:

  gpuxds demo                                 a real Envoy on five fake servers
  gpuxds check POLICY && gpuxds serve POLICY  your own servers, as a file says
  gpuxds bootstrap --node NAME > envoy.yaml   an Envoy that follows it
"""


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
        """What the help page says of a command; None makes typer suggest near misses."""
        del ctx
        entry = COMMANDS.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.summary, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, and what it is given."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and imported(str(name)), rest


def imported(name: str) -> Any:
    """The command of that name."""
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    module = importlib.import_module(f"gpuxds.cli.{COMMANDS[name].module}")
    single.command(name)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(single)


app = typer.Typer(
    name="gpuxds",
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(asked: bool) -> None:
    """Answer `--version`, alone on its line, so that scripts and image labels can take it as it is."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """GPU-aware control plane for Envoy: live GPU stats become weights and health, pushed over xDS."""
    del version
    if ctx.invoked_subcommand is None:
        typer.echo(START)
        typer.echo(ctx.get_help())


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="gpuxds")
    except GpuxdsError as error:
        print(told(error, as_json="--json" in sys.argv), file=sys.stderr)  # noqa: T201
        sys.exit(status_of(error))
