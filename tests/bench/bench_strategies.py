"""Every strategy on the same real Envoy and the same fake fleet, one after the other: what users would see."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.tables import Table
from gpuxds.policy.strategies import NAMES
from support.stack import Stack, stack
from support.waiting import until

FLEET = {"h100": "H100-80", "a100-80": "A100-80", "l40s": "L40S", "l4": "L4"}
RATE_RPS = 14.0
SETTLE_S, MEASURE_S = 12.0, 25.0


async def strategies() -> AsyncIterator[Table]:
    """One row per strategy, relative to `gpu_aware` in the same run."""
    found: dict[str, tuple[float, float, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with stack(Path(folder), FLEET) as running:
            for name in NAMES:
                found[name] = await measure(running, name)
    reference = found["gpu_aware"]
    rows = tuple(
        (
            name, f"{1000 * ttft:.0f} (×{ttft / reference[0]:.2f})", f"{e2e:.2f} (×{e2e / reference[1]:.2f})",
            str(failed),
        )
        for name, (ttft, e2e, failed) in found.items()
    )  # fmt: skip
    note = f"{RATE_RPS:g} requests/s on {', '.join(FLEET.values())}, one Envoy, {MEASURE_S:g} s each."
    columns = ("strategy", "first token p95, ms", "whole answer p95, s", "failed")
    yield Table("Strategies", "make bench ARGS=strategies", columns, rows, note)


async def measure(running: Stack, name: str) -> tuple[float, float, int]:
    """p95 of first token and whole answer in seconds, and failures, once the strategy has settled."""
    running.write_policy(running.policy(name))

    async def applied() -> bool:
        return bool((await running.api("/api/v1/endpoints"))["pools"][0]["strategy"] == name)

    await until(applied, 10, f"{name} is in force")
    async with running.load(RATE_RPS) as load:
        await asyncio.sleep(SETTLE_S + MEASURE_S)
        now = time.monotonic()
        stats = load.window(now - MEASURE_S, now)
    return stats.ttft_p95, stats.e2e_p95, stats.failed
