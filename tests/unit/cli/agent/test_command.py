"""The agent as a process: what it is given, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from gpuxds.cli.app import app
from gpuxds.errors import GpuxdsError, Misuse
from support.agents import FakeServer, serving
from support.waiting import until

AWAY = "127.0.0.1:1"


def failure(*arguments: str) -> GpuxdsError:
    """What the command ends with."""
    with pytest.raises(GpuxdsError) as refused:
        CliRunner().invoke(app, ["agent", *arguments, "--admin", AWAY], catch_exceptions=False)
    return refused.value


async def run(fake: FakeServer, *arguments: str, key: str = "") -> asyncio.subprocess.Process:
    environment = os.environ | {"GPUXDS_ADMIN": fake.url, "GPUXDS_API_KEY": key}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpuxds", "agent", "--endpoint", "gpu/1", "--engine-url", f"{fake.url}/metrics",
        "--interval", "500ms", *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "vlm"], "there are: vllm"),
        (["--gpu", "all"], "for example 0,1"),
        (["--interval", "5"], "write a number with a unit"),
        (["--interval", "100ms"], "the shortest is 0.5s"),
        (["--register", "chat"], "--register needs --address host:port and --gpu-model"),
        (["--register", "chat", "--gpu-model", "L4", "--address", "here"], "10.0.0.11:8000"),
        (["--gpu-model", "L4"], "give --register POOL"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(arguments: list[str], words: str) -> None:
    refused = failure("--endpoint", "a", *arguments)
    assert isinstance(refused, Misuse)
    assert words in str(refused)


def test_an_address_that_is_none_ends_it_since_no_waiting_mends_that() -> None:
    with pytest.raises(Misuse, match="is not an address"):
        CliRunner().invoke(
            app,
            ["agent", "--endpoint", "a", "--engine-url", "none", "--admin", "http://x:y"],
            catch_exceptions=False,
        )


def test_it_loads_nothing_of_the_control_plane() -> None:
    script = (
        "import sys, gpuxds.cli.agent.command as c; "
        "print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'betterproto2', 'textual') "
        "or m.startswith(('gpuxds.engine', 'gpuxds.snapshot', 'gpuxds.discovery', 'gpuxds.admin'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_once_sends_one_heartbeat_with_the_key_and_prints_it_with_the_answer() -> None:
    async with serving() as fake:
        process = await run(fake, "--once", key="secret")
        output, told = await process.communicate()
        assert process.returncode == 0, told
        printed = json.loads(output)
        assert printed["sent"] == fake.beats[0]
        assert printed["answer"]["health"] == "serving"
        assert fake.keys == ["secret"]
        assert b"secret" not in output + told


async def test_once_says_by_its_status_that_the_server_refused() -> None:
    async with serving() as fake:
        fake.refusal = (404, "no endpoint 'gpu/1'; known: a")
        process = await run(fake, "--once")
        output, told = await process.communicate()
        assert process.returncode == 1
        assert output == b""
        assert b"no endpoint 'gpu/1'" in told


async def test_once_says_by_its_status_that_there_was_nothing_to_say() -> None:
    async with serving() as fake:
        fake.page = None
        process = await run(fake, "--once", "--gpu", "77")
        _, told = await process.communicate()
        assert process.returncode == 1
        assert b"neither a GPU nor the engine could be read" in told


async def test_it_beats_until_it_is_asked_to_stop_and_tells_each_trouble_once() -> None:
    async with serving() as fake:
        fake.page = None
        process = await run(fake, "--gpu", "77")
        try:
            await until(lambda: len(fake.beats) > 2, 20, "heartbeats")
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = await process.communicate()
        assert process.returncode == 0
        events = [line["event"] for line in lines(told)]
        assert events == ["agent.started", "gpus.away", "engine.away", "health", "agent.stopped"] or events == [
            "agent.started", "engine.away", "gpus.away", "health", "agent.stopped"
        ]  # fmt: skip
