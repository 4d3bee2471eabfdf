"""Completion as shells ask for it: through the environment, with the words typed so far."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gpuxds.cli.app import COMMANDS
from gpuxds.policy.strategies import NAMES

AWAY = "127.0.0.1:1"
ROWS = [{"id": name, "health": "serving", "pool": "llama"} for name in ("h100", "h200", "l4")]


@asynccontextmanager
async def api(patience_s: float = 0.0) -> AsyncIterator[str]:
    """An admin API with three endpoints and two pools."""

    async def endpoints(_: web.Request) -> web.Response:
        await asyncio.sleep(patience_s)
        return web.json_response({"pools": [], "endpoints": ROWS})

    async def strategies(_: web.Request) -> web.Response:
        pools = [{"pool": name, "strategy": {"name": "gpu_aware"}, "source": "policy"} for name in ("chat", "code")]
        return web.json_response({"pools": pools})

    app = web.Application()
    app.add_routes([
        web.get("/api/v1/endpoints", endpoints), web.get("/api/v1/loadbalancer/strategy", strategies),
    ])  # fmt: skip
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def offered(line: str, admin: str = AWAY, shell: str = "bash") -> list[str]:
    """What a shell is offered at the end of a line; nothing may be said beside it."""
    words = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    asked = words | {"_GPUXDS_COMPLETE": f"complete_{shell}", "GPUXDS_ADMIN": admin}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpuxds", env=os.environ | asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert errors == b""
    return output.decode().split("\n")[:-1] if output.strip() else []


async def test_commands_are_completed_in_the_order_of_the_help_page() -> None:
    assert await offered("gpuxds ") == list(COMMANDS)
    assert await offered("gpuxds dr") == ["drain"]


@pytest.mark.parametrize("command", ["drain", "undrain", "explain"])
async def test_endpoints_are_those_of_the_server(command: str) -> None:
    async with api() as admin:
        assert await offered(f"gpuxds {command} h", admin) == ["h100", "h200"]
        assert await offered(f"gpuxds {command} --admin {admin} l") == ["l4"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gpuxds lb-strategy ", list(NAMES)),
        ("gpuxds lb-strategy full_scan --pool ", ["chat", "code"]),
        ("gpuxds agent --register c", ["chat", "code"]),
        ("gpuxds load ", ["server", "provider"]),
    ],
)
async def test_other_words_are_completed_where_they_stand(line: str, words: list[str]) -> None:
    async with api() as admin:
        assert await offered(line, admin) == words


async def test_zsh_and_fish_are_told_the_health_as_well() -> None:
    async with api() as admin:
        assert '"h100":"serving, pool llama"' in " ".join(await offered("gpuxds drain h", admin, "zsh"))
        assert (await offered("gpuxds drain h", admin, "fish"))[0] == "h100\tserving, pool llama"


async def test_a_server_that_is_away_or_slow_offers_nothing_and_says_nothing() -> None:
    assert await offered("gpuxds drain ") == []
    async with api(patience_s=30.0) as admin:
        assert await offered("gpuxds drain ", admin) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_has_a_script(shell: str) -> None:
    environment = os.environ | {"_GPUXDS_COMPLETE": f"source_{shell}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpuxds", env=environment, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert f"_GPUXDS_COMPLETE=complete_{shell}".encode() in output
