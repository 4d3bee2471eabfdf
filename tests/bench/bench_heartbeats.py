"""Heartbeats against a real server: latency at 500 a second, the server on one core, clients in this process.

The peer is the same server's /healthz at the same rate: what HTTP itself costs on this machine now.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.tables import FIGURES, Table, figure
from bench.usage import cpu_s
from support.stack import free_ports
from support.waiting import until

ENDPOINTS = 500
RATE_RPS = 500.0
SECONDS = 15.0
BEAT = {
    "running": 12,
    "waiting": 3,
    "capacity": 256,
    "kv_usage": 0.4,
    "gpus": [{"model": "NVIDIA H100", "utilisation": 0.97, "temperature_c": 61, "power_w": 640, "xid": 0}] * 8,
    "succeeded": 1000,
    "failed": 1,
    "mean_s": 2.5,
    "model": "llama-3-8b",
    "adapters": ["a", "b"],
}


async def heartbeats() -> AsyncIterator[Table]:
    """p50 and p99 of a heartbeat and of /healthz, one after the other on the same server."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        xds, admin = free_ports(2)
        policy = folder / "policy.yaml"
        listed = "".join(
            f"  - {{id: e{n}, address: '10.0.{n >> 8}.{n & 255}:80', gpu: {{model: H100-80}}, "
            "metrics: {source: heartbeat}}\n"
            for n in range(ENDPOINTS)
        )
        policy.write_text(f"version: 1\npools:\n- name: p\n  endpoints:\n{listed}")
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gpuxds", "serve", str(policy), "--xds", f"127.0.0.1:{xds}",
            "--admin", f"127.0.0.1:{admin}", "--state-dir", name,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        os.sched_setaffinity(server.pid, {0})
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session:
                await until(lambda: answers(session), 30, "the server is up")
                for what, path, body, target_ms in (
                    ("heartbeats", "/api/v1/endpoints/e{}/heartbeat", BEAT, 5.0),
                    ("GET /healthz", "/healthz", None, None),
                ):
                    before = cpu_s(server.pid)
                    took = await paced(session, path, body)
                    cores = (cpu_s(server.pid) - before) / SECONDS
                    p50_ms, p99_ms = (1000 * took[int(share * len(took))] for share in (0.5, 0.99))
                    beside = f"p50 {p50_ms:.2f} ms, {cores:.2f} core"
                    rows.append(figure(f"{RATE_RPS:.0f} {what}/s, p99", p99_ms, "ms", target_ms, beside))
        finally:
            server.terminate()
            await server.wait()
    note = f"{ENDPOINTS} endpoints, the server on one core, clients on the rest of the machine."
    yield Table("Heartbeats", "make bench ARGS=heartbeats", FIGURES, tuple(rows), note)


async def answers(session: aiohttp.ClientSession) -> bool:
    """Whether the server is ready."""
    try:
        async with session.get("/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def paced(session: aiohttp.ClientSession, path: str, body: object) -> list[float]:
    """Latencies in seconds, sorted; requests start when they are due, whether or not earlier ones are answered."""
    took: list[float] = []

    async def one(number: int, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        began = time.perf_counter()
        request = session.get(path) if body is None else session.post(path.format(number % ENDPOINTS), json=body)
        async with request as response:
            assert response.status == 200, await response.text()
            await response.read()
        took.append(time.perf_counter() - began)

    start = time.perf_counter() + 0.5
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(RATE_RPS * SECONDS)):
            tasks.create_task(one(number, start + number / RATE_RPS))
    return sorted(took)
