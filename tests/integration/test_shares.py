"""Weights become shares of traffic, follow a GPU that slows down, and pay off for users."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.stack import Stack, stack
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(240)]

FLEET = {"h100": "H100-80", "a100-80": "A100-80", "l40s": "L40S", "l4": "L4"}
RATE_RPS = 14.0


async def test_shares_of_traffic_are_what_explain_predicts_within_three_points(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(RATE_RPS):
        await until(lambda: sum(running.gauge.issued(0, time.monotonic()).values()) > 60, 30, "traffic flows")
        started, sums, samples = time.monotonic(), dict.fromkeys(FLEET, 0.0), 0
        while time.monotonic() - started < 30:
            for row in (await running.api("/api/v1/explain"))["endpoints"]:
                sums[row["id"]] += row["share"]
            samples += 1
            await asyncio.sleep(0.25)
        measured = running.gauge.shares(started, time.monotonic())
        predicted = {name: total / samples for name, total in sums.items()}
    assert all(abs(measured.get(name, 0.0) - predicted[name]) < 0.03 for name in FLEET), (measured, predicted)


async def test_a_throttled_gpu_loses_traffic_within_five_seconds_and_gets_it_back(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(RATE_RPS):
        await until(lambda: sum(running.gauge.issued(0, time.monotonic()).values()) > 150, 30, "traffic settles")
        before = running.share("h100", 8)
        await running.fault("h100", throttle=2.0)
        await seconds_until(lambda: running.share("h100", 2) < 0.7 * before, 5, "h100's share falls")
        await asyncio.sleep(4)
        assert running.share("h100", 5) < 0.7 * before, "it fell for a moment only"
        await running.fault("h100", throttle=1.0)
        await seconds_until(lambda: running.share("h100", 4) > 0.8 * before, 30, "h100's share returns")


async def tail(running: Stack, strategy: str, seconds: float) -> tuple[float, float]:
    """p95 of the first token and of the whole answer under a strategy, in seconds."""
    running.write_policy(running.policy(strategy))
    await until(lambda: applied(running, strategy), 10, f"{strategy} is in force")
    async with running.load(RATE_RPS) as load:
        await asyncio.sleep(seconds)
        now = time.monotonic()
        stats = load.window(now - seconds + 8, now)
        assert stats.failed == 0, stats.errors
    return stats.ttft_p95, stats.e2e_p95


async def applied(running: Stack, strategy: str) -> bool:
    pools = (await running.api("/api/v1/endpoints"))["pools"]
    proxies = (await running.api("/api/v1/proxies"))["proxies"]
    return pools[0]["strategy"] == strategy and bool(proxies) and all(p["in_sync"] for p in proxies)


async def test_users_wait_less_than_under_round_robin_on_the_same_envoy(
    tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    async with stack(tmp_path, FLEET) as running:
        results = {name: await tail(running, name, 26) for name in ("round_robin", "full_scan", "gpu_aware")}
    for name, (ttft, e2e) in results.items():
        print(f"{name}: first token p95 {1000 * ttft:.0f} ms, whole answer p95 {e2e:.2f} s")
        record_property(name, f"{ttft:.3f} {e2e:.3f}")  # type: ignore[operator]
    assert results["gpu_aware"][1] < results["round_robin"][1], results
