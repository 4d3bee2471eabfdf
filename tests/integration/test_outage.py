"""The control plane dies and comes back: Envoy does not notice, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from support.stack import Stack, stack
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(180)]

FLEET = {"h100": "H100-80", "a100-80": "A100-80", "l40s": "L40S", "l4": "L4"}
DEAD_BAND = 0.2


async def in_sync(running: Stack) -> bool:
    if not await running.ready():
        return False
    proxies = (await running.api("/api/v1/proxies"))["proxies"]
    return bool(proxies) and all(proxy["in_sync"] for proxy in proxies)


async def test_twenty_seconds_without_a_control_plane_cost_no_request_and_move_no_weight(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(12.0) as load:
        await running.fault("a100-80", slow=4.0)
        await asyncio.sleep(20)
        await running.api("/api/v1/endpoints/l40s/drain", {"reason": "before the crash", "deadline": "10m"})
        await until(lambda: is_out(running, "l40s"), 60, "l40s is drained")
        await asyncio.sleep(1.5)
        learnt = await correction(running, "a100-80")
        assert learnt < 0.9, "nothing was learnt that could be forgotten"
        killed = time.monotonic()
        await running.processes.kill("control-plane")
        before = await running.weights()
        await asyncio.sleep(20)
        assert await running.weights() == before
        assert load.window(killed, time.monotonic()).failed == 0
        assert load.window(killed, time.monotonic()).count > 100

        await running.start_control_plane(wait=False)
        await until(lambda: listening_again(running), 20, "the control plane's ports are open")
        synced_s = await seconds_until(lambda: in_sync(running), 20, "all proxies are in sync")
        assert synced_s < 2
        after = await running.weights()
        assert "l40s" not in after, "a drained endpoint came back from the dead"
        wanted = {row["id"]: row for row in (await running.api("/api/v1/explain"))["endpoints"]}
        for name, weight in after.items():
            moved = abs(math.log(weight / before[name]))
            justified = abs(math.log(wanted[name]["wanted"] / before[name]))
            assert moved <= justified + DEAD_BAND, (name, before, after, wanted[name])
        assert await correction(running, "a100-80") < 0.5 * (1 + learnt), "what was learnt was forgotten"
        flat = max(after.values()) / min(after.values())
        assert flat > 2, f"weights were flattened: {after}"
        assert load.window(killed, time.monotonic()).failed == 0


async def correction(running: Stack, name: str) -> float:
    """The factor that was learnt about an endpoint; survives only in the saved state."""
    rows = (await running.api("/api/v1/explain"))["endpoints"]
    terms = next(row["terms"] for row in rows if row["id"] == name)
    return float(next(term["value"] for term in terms if term["name"] == "correction"))


async def is_out(running: Stack, name: str) -> bool:
    return name not in await running.hosts()


async def listening_again(running: Stack) -> bool:
    return running.log().count('"event": "serving"') == 2


async def test_sigterm_stops_the_server_within_seconds_and_envoy_goes_on(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(8.0) as load:
        await asyncio.sleep(4)
        process = running.processes.running.pop("control-plane")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert '"event": "stopped"' in running.log()
        at = time.monotonic()
        await asyncio.sleep(4)
        assert load.window(at, time.monotonic()).failed == 0
        assert load.window(at, time.monotonic()).count > 5
