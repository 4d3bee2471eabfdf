"""The `demo` command: a live picture on a terminal, plain lines elsewhere, and an exit status that means it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from gpuxds.cli.demo.screen import picture, shares_line, verdict_line
from gpuxds.cli.demo.stage import stage
from gpuxds.cli.demo.story import STORY, Verdict, Watch
from gpuxds.errors import GpuxdsError
from gpuxds.simulator.load import Load
from gpuxds.simulator.workload import Workload

RATE_RPS = 16.0
REDRAW_S = 0.5
LINE_EVERY_S = 10.0


def demo(
    duration: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds to run.", show_default="until Ctrl-C; without a terminal: one story"),
    ] = None,
    story: Annotated[bool, typer.Option("--story/--no-story", help="Throttle, drain, kill and recover.")] = True,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = RATE_RPS,
) -> None:
    """A story: a real Envoy on five fake GPU servers, with faults."""
    console = Console(highlight=False, markup=False)
    verdicts: list[Verdict] = []
    problem: BaseException | None = None
    try:
        asyncio.run(run(console, verdicts, story, duration, rate))
    except* (asyncio.CancelledError, KeyboardInterrupt):
        console.print("stopped; nothing is left running", style="dim")
    except* GpuxdsError as group:
        problem = first_of(group)
    if problem is not None:
        raise problem
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)


def first_of(group: BaseException) -> BaseException:
    """The first failure of a group, which is the one to show."""
    return first_of(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


async def run(console: Console, verdicts: list[Verdict], story: bool, duration: float | None, rate: float) -> None:
    """Everything, until the end of the story, the duration, or a signal."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    console.print("starting five fake GPU servers, a control plane and Envoy …", style="dim")
    async with stage() as scene:
        load = Load(scene.url, Workload(random.Random(1)), rate)  # noqa: S311
        watch = Watch(scene, load, time.monotonic)
        show = Show(watch, verdicts, endless=duration is None and (console.is_terminal or not story))
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(load.run()), tasks.create_task(watch.look_on())]
            if story:
                background.append(tasks.create_task(show.tell()))
            else:
                show.doing = "Ctrl-C ends it"
            try:
                async with asyncio.timeout(duration):
                    await (draw(console, show) if console.is_terminal else narrate(console, show))
            except TimeoutError:
                pass
            finally:
                for running in background:
                    running.cancel()


@dataclass(slots=True)
class Show:
    """The story as far as it has been told."""

    watch: Watch
    verdicts: list[Verdict]
    endless: bool
    """Go on after the story."""
    doing: str = ""
    told: bool = False

    async def tell(self) -> None:
        """Play every step."""
        for step in STORY:
            self.doing = f"→ {(step.__doc__ or '').strip()}"
            self.verdicts.append(await step(self.watch))
        self.told, self.doing = True, "the story is told; Ctrl-C ends the demo"

    @property
    def over(self) -> bool:
        """Nothing more to show."""
        return self.told and not self.endless


async def draw(console: Console, show: Show) -> None:
    """The live picture."""
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while not show.over:
            live.update(picture(show.watch, show.verdicts, show.doing), refresh=True)
            await asyncio.sleep(REDRAW_S)


async def narrate(console: Console, show: Show) -> None:
    """Plain lines: what is done, what it showed, and now and then how traffic goes."""
    doing, told, line_at = "", 0, show.watch.now()
    while not show.over or told < len(show.verdicts):
        for verdict in show.verdicts[told:]:
            console.print(verdict_line(verdict), soft_wrap=True)
        told = len(show.verdicts)
        if show.doing != doing:
            doing = show.doing
            console.print(doing, soft_wrap=True)
        if show.watch.now() - line_at > LINE_EVERY_S:
            line_at = show.watch.now()
            console.print(shares_line(show.watch), soft_wrap=True)
        await asyncio.sleep(REDRAW_S)
