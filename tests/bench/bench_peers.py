"""Other control planes under the load that ours is under, from the same client, in turns.

go-control-plane is a library: `peers/main.go` is the smallest server with its caches. Sovereign renders templates
for proxies that poll over HTTP; what it spends on a poll stands beside what we spend on a push. A peer that cannot
be had on this machine is skipped, with the reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.bench_push import COLUMNS, MATRIX, NOTE, OURS, Load, Outcome, measure
from bench.conversation import HERE, started
from bench.tables import Table, number
from bench.usage import cpu_s
from support.stack import free_ports
from support.waiting import until

COMMAND = "make bench ARGS=peers"
BUILT = HERE.parents[1] / ".bench"
"""Ignored by git: what peers are built into."""
SOVEREIGN = "sovereign[orjson,httptools]==0.32.12"
SERVE_SOVEREIGN = (
    "from sovereign.app import app; import sys, uvicorn; uvicorn.run(app, port=int(sys.argv[1]), log_level='error')"
)
ROUNDS = 2
SECONDS = 10.0
POLLS = 20


class Skipped(Exception):
    """A peer cannot be had here, and why."""


async def peers() -> AsyncIterator[Table]:
    """Both tables."""
    yield await go_control_plane()
    yield await sovereign()


async def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command to its end; the last line it said when it failed, else nothing."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return "" if process.returncode == 0 else (output.decode().strip().splitlines() or ["no output"])[-1]


# -- go-control-plane ------------------------------------------------------------------------------------


async def build_go() -> Path:
    """The peer, compiled. Raises Skipped."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise Skipped("no Go toolchain (install Go, or put `go` on the PATH)")
    BUILT.mkdir(exist_ok=True)
    problem = await run(go, "build", "-o", str(BUILT / "peer"), ".", cwd=HERE / "peers")
    if problem:
        raise Skipped(f"`go build` in tests/bench/peers failed: {problem}")
    return BUILT / "peer"


async def go_control_plane() -> Table:
    """The push matrix, server by server in turns; the round with the least CPU of each counts."""
    servers: dict[str, tuple[str, ...]] = {"gpuxds": OURS}
    note = NOTE
    try:
        peer = str(await build_go())
        servers["go-control-plane LinearCache"] = (peer, "linear")
        servers["go-control-plane SnapshotCache"] = (peer, "snapshot")
    except Skipped as reason:
        note += f" go-control-plane skipped: {reason}."
    rows = []
    for load, _ in MATRIX:
        shorter = dataclasses.replace(load, seconds=SECONDS)
        found: dict[str, list[Outcome]] = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, command in servers.items():
                try:
                    found[name].append(await measure(command, shorter))
                except TimeoutError:
                    note += f" {name} had not configured all of {load.streams:,} streams after 60 s."
        best = {name: min(outcomes, key=lambda o: o.cpu) for name, outcomes in found.items() if outcomes}
        rows += [
            (*o.row(name), f"×{o.cpu_per_push_ms / best['gpuxds'].cpu_per_push_ms:.2g}") for name, o in best.items()
        ]
    return Table("Push, against go-control-plane", COMMAND, (*COLUMNS, "CPU per push ÷ ours"), tuple(rows), note)


# -- sovereign -------------------------------------------------------------------------------------------


async def install_sovereign() -> Path:
    """The Python of an environment that has it. Raises Skipped."""
    python = BUILT / "sovereign" / "bin" / "python"
    if (BUILT / "sovereign" / "ready").exists():
        return python
    problem = await run(sys.executable, "-m", "venv", str(BUILT / "sovereign")) or await run(
        str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", SOVEREIGN
    )
    if problem:
        raise Skipped(f"`pip install {SOVEREIGN}` failed: {problem}")
    (BUILT / "sovereign" / "ready").touch()
    return python


async def sovereign() -> Table:
    """CPU of a poll, against CPU of a push."""
    rows, note = (
        [],
        "Sovereign answers polls over HTTP with JSON; its template is a Python function, its fastest kind.",
    )
    try:
        python = await install_sovereign()
    except Skipped as reason:
        python, note = None, f"Sovereign skipped: {reason}."
    for endpoints in (1_000, 10_000):
        ours = (await measure(OURS, Load(endpoints, 100, SECONDS))).cpu_per_push_ms
        rows.append((f"gpuxds, {endpoints:,} endpoints", number(ours), ""))
        if python is not None:
            theirs = await poll_cost_ms(python, endpoints)
            rows.append((f"sovereign, {endpoints:,} endpoints", number(theirs), f"×{theirs / ours:,.0f}"))
    columns = ("server", "ms CPU per push or poll", "÷ ours")
    return Table("Push, against sovereign's poll", COMMAND, columns, tuple(rows), note)


async def poll_cost_ms(python: Path, endpoints: int) -> float:
    """CPU milliseconds of one poll that is answered with the whole assignment."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "sovereign.yaml"
        template = HERE / "peers" / "sovereign_template.py"
        config.write_text(
            'sources: [{type: inline, config: {instances: [{service_clusters: ["*"]}]}}]\n'
            f"templates: {{default: {{endpoints: 'python://{template}'}}}}\nenable_access_logs: false\n"
        )
        environment = {
            "ENDPOINTS": str(endpoints),
            "SOVEREIGN_CONFIG": f"file://{config}",
            "SOVEREIGN_ENABLE_ACCESS_LOGS": "false",
            "PYTHONWARNINGS": "ignore",
        }
        async with (
            started(python, "-c", SERVE_SOVEREIGN, str(port), **environment) as server,
            aiohttp.ClientSession() as session,
        ):

            async def poll() -> bool:
                request = {
                    "node": {"id": "proxy", "cluster": "edge", "build_version": "a/1.40.0/Clean/RELEASE"},
                    "version_info": "0", "resource_names": ["p"],
                }  # fmt: skip
                url = f"http://127.0.0.1:{port}/v3/discovery:endpoints"
                try:
                    async with session.post(url, json=request) as response:
                        return response.status == 200 and len(await response.read()) > 100 * endpoints
                except aiohttp.ClientConnectorError:
                    return False

            await until(poll, 60, "sovereign answers")
            before = cpu_s(server.pid)
            for _ in range(POLLS):
                assert await poll()
            return 1000 * (cpu_s(server.pid) - before) / POLLS
