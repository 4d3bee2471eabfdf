"""The `demo` command: a live picture on a terminal, plain lines elsewhere, and an exit status that means it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from gpuxds.cli.demo.screen import picture, verdict_line
from gpuxds.cli.demo.stage import Stage, stage
from gpuxds.cli.demo.story import STORY, Verdict, Watch
from gpuxds.simulator.load import Load
from gpuxds.simulator.workload import Workload

RATE_RPS = 16.0
REDRAW_S = 0.5


def demo(
    duration: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds to run.  [default: until Ctrl-C; without a terminal: one story]"),
    ] = None,
    story: Annotated[bool, typer.Option("--story/--no-story", help="Throttle, drain, kill and recover.")] = True,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = RATE_RPS,
) -> None:
    """Watch a real Envoy steer requests over five fake GPU servers, through a scripted story."""
    console = Console(highlight=False)
    verdicts: list[Verdict] = []
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(run(console, verdicts, story, duration, rate))
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)


async def run(console: Console, verdicts: list[Verdict], story: bool, duration: float | None, rate: float) -> None:
    """Everything, until the end of the story, the duration, or a signal."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    console.print("starting five fake GPU servers, a control plane and Envoy …", style="dim")
    async with stage() as scene:
        load = Load(scene.url, Workload(rng=random.Random(1)), rate)  # noqa: S311
        watch = Watch(scene, load, time.monotonic)
        end_s = duration if duration is not None else (None if console.is_terminal or not story else 0.0)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(load.run()), tasks.create_task(watch.look_on())]
            try:
                await (tell_live if console.is_terminal else tell_plainly)(console, watch, verdicts, story, end_s)
            finally:
                for running in background:
                    running.cancel()
