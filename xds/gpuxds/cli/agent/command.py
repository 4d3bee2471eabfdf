"""`gpuxds agent`: reads its options, builds the agent and runs it until it is stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import structlog
import typer

from gpuxds.cli.addresses import split_address
from gpuxds.cli.agent.engine import EnginePage
from gpuxds.cli.agent.loop import Agent
from gpuxds.cli.agent.nvml import Nvml
from gpuxds.cli.agent.registration import Registration, register
from gpuxds.cli.agent.watch import GpuWatch
from gpuxds.cli.client import DEFAULT, Admin, session
from gpuxds.cli.complete import engines, pools
from gpuxds.cli.logs import LogFormat, LogLevel, configure
from gpuxds.errors import EnvironmentProblem, Misuse
from gpuxds.policy.units import parse_duration
from gpuxds.signals.presets import presets

log = structlog.get_logger("gpuxds")

ENGINE_URL = "http://127.0.0.1:8000/metrics"
NONE = "none"
SHORTEST_INTERVAL_S = 0.5
TIMEOUT_S = 5.0


def agent(
    endpoint: Annotated[str, typer.Option(help="Id of the endpoint this host serves.", show_default=False)],
    admin: Admin = DEFAULT,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GPUXDS_API_KEY",
            help="Key that may operate; better in the environment, since every user of a host sees arguments.",
            show_default=False,
        ),
    ] = None,
    engine_url: Annotated[str, typer.Option(help="The engine's metric page; `none` for GPUs alone.")] = ENGINE_URL,
    engine: Annotated[str, typer.Option(help="Preset that reads the page.", autocompletion=engines)] = "vllm",
    interval: Annotated[str, typer.Option(help="Between heartbeats.")] = "5s",
    gpu: Annotated[
        str | None,
        typer.Option(help="GPUs that serve the endpoint, as nvidia-smi numbers them: 0,1.", show_default="all"),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Send one heartbeat, print it and the answer, and end.")
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            "--register", metavar="POOL", help="Register the endpoint in this pool first.", autocompletion=pools
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="With --register: where proxies reach it, host:port.")] = None,
    gpu_model: Annotated[str | None, typer.Option(help="With --register: for example H100-80 or L4.")] = None,
    gpu_count: Annotated[
        int | None,
        typer.Option(min=1, help="With --register: GPUs that serve it.", show_default="those of --gpu, else 1"),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="Requests it can run at once.", show_default="from the GPU model")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="auto: text on a terminal, else JSON.")] = LogFormat.AUTO,
    log_level: Annotated[LogLevel, typer.Option(help="What is worth a line.")] = LogLevel.INFO,
) -> None:
    """Report this GPU host and its engine to a running server."""
    configure(log_format, log_level)
    preset = presets().get(engine)
    if preset is None:
        raise Misuse(f"--engine {engine!r} is not a preset; there are: {', '.join(presets())}")
    indices = gpu_indices(gpu)
    made = Agent(
        endpoint=endpoint,
        admin=admin,
        interval_s=interval_s(interval),
        engine=None if engine_url == NONE else EnginePage(engine_url, preset),
        gpus=GpuWatch(Nvml(indices)),
        capacity=capacity,
        registration=registration(endpoint, pool, address, gpu_model, gpu_count or len(indices) or 1, capacity),
        clock=time.monotonic,
    )
    asyncio.run(send_once(made, api_key) if once else until_stopped(run(made, api_key)))


def gpu_indices(text: str | None) -> tuple[int, ...]:
    """`0,1` as numbers; empty: all. Raises Misuse."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise Misuse(f"--gpu {text!r}: write the numbers nvidia-smi shows, for example 0,1")
    return tuple(sorted({int(part) for part in parts}))


def interval_s(text: str) -> float:
    """Seconds. Raises Misuse."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise Misuse(f"--interval {error}") from error
    if found < SHORTEST_INTERVAL_S:
        raise Misuse(f"--interval {text!r} is too short; the shortest is {SHORTEST_INTERVAL_S:g}s")
    return found


def registration(
    endpoint: str,
    pool: str | None,
    address: str | None,
    gpu_model: str | None,
    gpu_count: int,
    capacity: int | None,
) -> Registration | None:
    """What to register; None when nothing is to be. Raises Misuse."""
    if pool is None:
        if address is not None or gpu_model is not None:
            raise Misuse("--address and --gpu-model describe what is registered: give --register POOL as well")
        return None
    if address is None or gpu_model is None:
        raise Misuse("--register needs --address host:port and --gpu-model, for example H100-80")
    split_address(address, "10.0.0.11:8000")
    return Registration(endpoint, pool, address, gpu_model, gpu_count, capacity)


async def run(agent: Agent, api_key: str | None) -> None:
    """Beat until cancelled."""
    async with session(TIMEOUT_S, api_key) as client:
        log.info("agent.started", endpoint=agent.endpoint, admin=agent.admin, interval_s=agent.interval_s)
        await agent.run(client)


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run something that does not end, until SIGTERM or SIGINT."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("agent.stopped")


async def send_once(agent: Agent, api_key: str | None) -> None:
    """One heartbeat, printed with what the server said to it.

    Raises ServerAway, Refused or Conflict, and EnvironmentProblem when there was nothing to say.
    """
    async with session(TIMEOUT_S, api_key) as client:
        if agent.registration is not None:
            await register(client, agent.admin, agent.registration)
        heartbeat = await agent.heartbeat(client)
        answer = await agent.send(client, heartbeat)
    typer.echo(json.dumps({"sent": heartbeat, "answer": answer}, indent=2))
    if all(value is None for value in heartbeat.values()):
        raise EnvironmentProblem("neither a GPU nor the engine could be read; the lines above say why")
