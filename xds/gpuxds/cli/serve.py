"""`gpuxds serve`: the control plane as one process.

Starts the ADS server, the engine and the admin server on one event loop and stops them in the reverse order
on SIGTERM or SIGINT. Everything that can be wrong with the command line, the policy or a port is reported
before anything is served.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import structlog
import typer
from aiohttp import web

from gpuxds.admin.app import build
from gpuxds.cli.addresses import ADMIN_ADDRESS, XDS_ADDRESS, split_address
from gpuxds.cli.logs import LogFormat, LogLevel, configure
from gpuxds.discovery.credentials import Credentials, insecure_warning
from gpuxds.discovery.events import NodeInfo
from gpuxds.discovery.server import AdsServer
from gpuxds.engine import guards, pauses
from gpuxds.engine.loop import Engine, Settings
from gpuxds.errors import EnvironmentProblem

log = structlog.get_logger("gpuxds")

GRACE_S = 1.0
"""What is under way when the server is stopped may end within this; followers of events never would."""


def serve(
    policy: Annotated[Path, typer.Argument(help="Policy file; reloaded when it changes.", show_default=False)],
    xds: Annotated[str, typer.Option(help="Address for proxies (ADS), host:port.")] = XDS_ADDRESS,
    admin: Annotated[str, typer.Option(help="Address for people and Prometheus, host:port.")] = ADMIN_ADDRESS,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="GPUXDS_STATE_DIR", help="Where state survives restarts.", show_default="~/.local/state/gpuxds"
        ),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Longest wait for signals before serving, in seconds.")] = 5.0,
    tls_cert: Annotated[Path | None, typer.Option(help="Server certificate (PEM); files may rotate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the server certificate.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Ask proxies for certificates of this CA.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token proxies must send.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys of the admin API; a line is `read KEY` or `operate KEY`.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="auto: text on a terminal, else JSON.")] = LogFormat.AUTO,
    log_level: Annotated[LogLevel, typer.Option(help="What is worth a line.")] = LogLevel.INFO,
) -> None:
    """Serve a policy to Envoy over ADS until stopped."""
    configure(log_format, log_level)
    for path in (tls_cert, tls_key, tls_client_ca, token_file, api_key_file):
        if path is not None and not path.is_file():
            raise EnvironmentProblem(f"{path}: no such file")
    split_address(xds)
    credentials = Credentials(tls_cert, tls_key, tls_client_ca, token_file)
    settings = Settings(policy.absolute(), state_file(state_dir, policy), grace)
    asyncio.run(run(settings, xds, admin, credentials, api_key_file))


def state_file(state_dir: Path | None, policy: Path) -> Path:
    """One state file per policy path, so that two servers on one machine do not share one by accident."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = f"{policy.stem}-{hashlib.sha256(str(policy.absolute()).encode()).hexdigest()[:8]}.json"
    return (state_dir or home / "gpuxds") / name


def steady_clock() -> float:
    """Unix seconds that never jump: the wall clock at start plus monotonic time since."""
    return STARTED_AT + (time.monotonic() - STARTED_MONOTONIC)


STARTED_AT, STARTED_MONOTONIC = time.time(), time.monotonic()


async def run(
    settings: Settings, xds: str, admin: str, credentials: Credentials, api_key_file: Path | None
) -> None:
    """Start everything, wait for a signal, stop everything."""
    engine: Engine

    def group(node: NodeInfo) -> str:
        return guards.group(engine, node)

    server = AdsServer(xds, credentials=credentials, group_of=group, clock=steady_clock)
    engine = Engine(settings, server, steady_clock)
    engine.load()
    runner = web.AppRunner(build(engine, api_key_file), access_log=None, shutdown_timeout=GRACE_S)
    try:
        await server.start()
        await listen(runner, admin)
        warn_when_open(xds, admin, credentials, api_key_file)
        log.info("serving", xds=xds, admin=admin, policy=str(settings.policy_path), state=str(settings.state_path))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.stop)
        pauses.shorten()
        await engine.run()
    finally:
        await runner.cleanup()
        await server.stop(grace_s=GRACE_S)
        log.info("stopped")


async def listen(runner: web.AppRunner, address: str) -> None:
    """Bind the admin address. Raises EnvironmentProblem when it is taken."""
    host, port = split_address(address, ADMIN_ADDRESS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise EnvironmentProblem(
            f"admin address {address}: {error.strerror}; choose another with --admin"
        ) from error


def warn_when_open(xds: str, admin: str, credentials: Credentials, api_key_file: Path | None) -> None:
    """Say loudly when anybody on the network may read or change what proxies do."""
    warning = insecure_warning(xds, credentials)
    if warning:
        log.warning("xds.open_to_the_network", detail=warning)
    host, _ = split_address(admin)
    if host not in ("127.0.0.1", "::1", "localhost") and api_key_file is None:
        log.warning(
            "admin.open_to_the_network",
            detail=f"{admin} can drain endpoints and asks for no key; give --api-key-file or bind 127.0.0.1",
        )
