"""The server as a process: how it stops."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

from support.stack import free_ports
from support.waiting import until

POLICY = "version: 1\npools: [{name: p, endpoints: [{id: a, address: '127.0.0.1:1', gpu: {model: L4}}]}]\n"
DEADLINE_S = 20.0


async def test_followers_of_events_do_not_keep_a_server_from_stopping(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    xds, port = free_ports(2)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpuxds", "serve", str(tmp_path / "policy.yaml"), "--xds", f"127.0.0.1:{xds}",
        "--admin", f"127.0.0.1:{port}", "--state-dir", str(tmp_path), "--grace", "0",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as client:

            async def ready() -> bool:
                try:
                    async with client.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until(ready, DEADLINE_S, "the server is ready")
            async with client.get(f"http://127.0.0.1:{port}/api/v1/events") as events:
                assert events.status == 200
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
