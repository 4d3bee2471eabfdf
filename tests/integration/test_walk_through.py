"""The walk-through does what it says: its commands are run as they stand there, in order, and looked at."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuxds.cli.client import fetch
from gpuxds.errors import Refused, ServerAway
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "policies" / "walk-through.md").read_text()
ADMIN = "http://127.0.0.1:18001"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm-256color"}


class Reader:
    """Somebody who types the walk-through's commands into a shell, one block after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks: Iterator[str] = iter(re.findall(r"```console\n(.*?)\n```", TEXT, re.DOTALL))
        self.running: list[subprocess.Popen[bytes]] = []

    def next(self, beginning: str) -> str:
        """The next block, which must begin like this: the test follows the text and cannot skip any of it."""
        block = next(self.blocks)
        assert block.startswith(beginning), f"the text goes on with {block!r}"
        return block

    def start(self, beginning: str) -> None:
        """Run a block that does not end by itself."""
        command = ["sh", "-c", f"exec {self.next(beginning).removesuffix(' &')}"]
        with (self.folder / f"{len(self.running)}.log").open("wb") as log:
            made = subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, stdout=log, stderr=log)
        self.running.append(made)

    async def run(self, beginning: str) -> str:
        """Run a block to its end; what it printed."""
        made = await asyncio.create_subprocess_exec(
            "bash", "-c", self.next(beginning), cwd=self.folder, env=ENVIRONMENT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed = (await made.communicate())[0].decode()
        assert made.returncode == 0, printed
        return printed

    def stop(self) -> None:
        """End what is still running, the newest first."""
        for process in reversed(self.running):
            process.terminate()
            process.wait(20)


async def endpoint(name: str) -> dict[str, Any]:
    """One endpoint as the API shows it."""
    return await fetch(ADMIN, f"/api/v1/endpoints/{name}")


def in_terminal(command: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A program in a terminal of 100 columns, and our end of it."""
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    made = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdin=child, stdout=child, stderr=child)
    os.close(child)
    os.set_blocking(terminal, False)
    return made, terminal


async def press_in_top(reader: Reader) -> None:
    """Open `gpuxds top`, filter for l4, drain it, and leave."""
    top, terminal = in_terminal(reader.next("gpuxds top").split(), reader.folder)
    screen = bytearray()

    def shows(text: str) -> bool:
        with contextlib.suppress(OSError):
            screen.extend(os.read(terminal, 1_000_000))
        return text.encode() in screen

    try:
        await until(lambda: shows("a100-80"), 20, "top shows the fleet")
        for keys in ("/", "l4", "\r"):
            os.write(terminal, keys.encode())
            await asyncio.sleep(0.5)  # a person's pace: keys that come in one burst are one paste
        os.write(terminal, b"d")
        await until(lambda: shows("press d again to drain l4"), 10, "top asks twice")
        os.write(terminal, b"d")

        async def draining() -> bool:
            return (await endpoint("l4"))["health"] in ("draining", "drained")

        await until(draining, 10, "l4 is draining")
        await until(lambda: shows("draining"), 10, "top shows it")
        os.write(terminal, b"q")
        await until(lambda: shows("") and top.poll() is not None, 10, "top leaves")
        assert top.returncode == 0
    finally:
        top.kill()
        os.close(terminal)


async def test_the_walk_through_works_as_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        reader.start("gpuxds demo --no-story")

        async def up() -> bool:
            try:
                return "h100" in await reader_sees(reader)
            except (ServerAway, Refused):
                return False

        await until(up, 30, "the demo is up")
        assert "a100-80" in await reader.run("gpuxds endpoints")
        reader.start("python -m gpuxds.simulator")
        registered = json.loads(await reader.run("curl -s 127.0.0.1:18001/api/v1/endpoints"))
        assert (registered["id"], registered["health"], registered["source"]) == ("spare", "warming", "api")

        async def serving() -> bool:
            return bool((await endpoint("spare"))["health"] == "serving")

        await until(serving, 15, "spare answers")
        assert "ramp" in await reader.run("gpuxds explain spare")
        ramp = await ramp_of("spare")
        assert ramp < 1, "it got its whole share at once"

        async def ramped() -> bool:
            return await ramp_of("spare") == 1

        await until(ramped, 30, "spare has its whole share")
        assert "override" in await reader.run("gpuxds lb-strategy least_connections")
        assert "override" not in await reader.run("gpuxds lb-strategy --clear")
        await reader.run("gpuxds reserve 2")
        held = json.loads((tmp_path / "held.json").read_text())
        assert len(held["endpoints"]) == 2
        assert held["name"] in (listed := await reader.run("gpuxds reserve"))
        assert "benchmark" in listed
        assert held["reservation_id"] not in listed
        assert server_of(await reader.run("held=")) in held["endpoints"]
        assert server_of(await reader.run("curl -s -o /dev/null")) not in held["endpoints"]
        assert "released" in await reader.run("gpuxds reserve --release")
        await press_in_top(reader)
        explained = await reader.run("gpuxds explain l4")
        assert "drained by an operator: from top" in explained
        events = await reader.run("curl -sN")
        for kind in ("strategy", "reserve", "release", "drain"):
            assert f"event: {kind}" in events
        assert "back in service" in await reader.run("gpuxds undrain l4")
        assert list(reader.blocks) == [], "the text goes on"
    finally:
        reader.stop()


async def reader_sees(reader: Reader) -> set[str]:
    """Endpoints the API has."""
    assert reader.running[0].poll() is None, (reader.folder / "0.log").read_text()
    return {row["id"] for row in (await fetch(ADMIN, "/api/v1/endpoints"))["endpoints"]}


async def ramp_of(name: str) -> float:
    """The factor `ramp` of a weight."""
    (row,) = (await fetch(ADMIN, f"/api/v1/explain?endpoint={name}"))["endpoints"]
    return float(next(term["value"] for term in row["terms"] if term["name"] == "ramp"))


def server_of(headers: str) -> str:
    """Who answered, by the header of the fake servers."""
    return headers.lower().partition("x-fake-gpu:")[2].split()[0]
