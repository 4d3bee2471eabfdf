"""What is blind stays in service, what is dead or hangs goes out, and a loss of everything changes nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.stack import Stack, stack
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(180)]

FLEET = {"h100": "H100-80", "a100-80": "A100-80", "a100-40": "A100-40", "l40s": "L40S"}
FAST_RELAX = {"engine": {"stale_after": "2s"}, "gpu": {"interval": "1s"}, "relax_over": "6s"}


async def healthy(running: Stack, name: str) -> bool:
    hosts = await running.hosts()
    return name in hosts and hosts[name]["health"] == "HEALTHY"


async def test_one_blind_endpoint_relaxes_to_its_baseline_and_stays_healthy(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(10.0) as load:
        running.write_policy(running.policy(signals=FAST_RELAX))
        await asyncio.sleep(6)
        started = time.monotonic()
        await running.fault("h100", blind=True)

        async def relaxation() -> float:
            rows = (await running.api("/api/v1/explain"))["endpoints"]
            return float(next(row["relaxation"] for row in rows if row["id"] == "h100"))

        async def relaxing() -> bool:
            return 0.2 < await relaxation() < 0.8

        await seconds_until(relaxing, 8, "h100 is half relaxed")

        async def relaxed() -> bool:
            return await relaxation() == 1.0

        await seconds_until(relaxed, 10, "h100 is fully relaxed")
        assert 6 < time.monotonic() - started < 12
        assert await healthy(running, "h100")
        assert load.window(started, time.monotonic()).failed == 0
        row = await running.row("h100")
        assert row["health"] in ("serving", "suspect")
        await running.fault("h100", blind=False)

        async def fresh() -> bool:
            return await relaxation() == 0.0

        await until(fresh, 5, "h100 is seen again")


async def test_when_all_metrics_go_blind_everything_freezes_and_an_alarm_is_raised(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(8.0) as load:
        await asyncio.sleep(5)
        assert await running.metric('gpuxds_pool_frozen{pool="llama"}') == 0
        await asyncio.gather(*(running.fault(name, blind=True) for name in FLEET))

        async def frozen() -> bool:
            return await running.metric('gpuxds_pool_frozen{pool="llama"}') == 1

        await until(frozen, 10, "the alarm is raised")
        before = await running.weights()
        at = time.monotonic()
        await asyncio.sleep(8)
        assert await running.weights() == before
        assert all(host["health"] == "HEALTHY" for host in (await running.hosts()).values())
        assert load.window(at, time.monotonic()).failed == 0
        assert '"event": "pool.alarm"' in running.log()
        await asyncio.gather(*(running.fault(name, blind=False) for name in FLEET))

        async def thawed() -> bool:
            return not await frozen()

        await until(thawed, 10, "the alarm is over")


async def test_a_dead_endpoint_gets_no_traffic_within_two_and_a_half_seconds_and_only_its_own_are_lost(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(12.0) as load:
        await asyncio.sleep(6)
        in_flight = (await running.hosts())["h100"]["active"]
        at = time.monotonic()
        await running.fault("h100", die=True)

        async def out() -> bool:
            return not await healthy(running, "h100")

        assert await seconds_until(out, 5, "h100 is out") < 2.5
        after_out = time.monotonic()
        await asyncio.sleep(8)
        lost = load.window(at, time.monotonic())
        assert lost.failed <= in_flight + 3, lost.errors
        started_after = [o for o in load.outcomes if o.started_at > after_out]
        assert len(started_after) > 20
        assert not [o for o in started_after if o.error]
        await running.fault("h100", die=False)
        await until(lambda: healthy(running, "h100"), 10, "h100 is back")


async def test_a_hung_endpoint_is_out_within_five_seconds(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(6.0):
        await asyncio.sleep(4)
        await running.fault("a100-80", hang=True)

        async def out() -> bool:
            return not await healthy(running, "a100-80")

        await seconds_until(out, 5, "a100-80 is out")
        assert (await running.row("a100-80"))["health"] == "failed"
        await running.fault("a100-80", hang=False)
        await until(lambda: healthy(running, "a100-80"), 10, "a100-80 is back")


async def test_an_xid_takes_a_gpu_out_although_it_answers(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(6.0) as load:
        await asyncio.sleep(3)
        at = time.monotonic()
        await running.fault("a100-40", xid=79)

        async def out() -> bool:
            return not await healthy(running, "a100-40")

        await seconds_until(out, 5, "a100-40 is out")
        row = await running.row("a100-40")
        assert row["health"] == "quarantined"
        assert "79" in row["reason"]
        assert load.window(at, time.monotonic()).failed == 0


async def test_an_endpoint_that_answers_with_errors_is_taken_out_by_what_proxies_report(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(12.0):
        policy = running.policy()
        policy["pools"][0]["outlier_detection"] = {"consecutive_5xx": 0}
        running.write_policy(policy)
        await asyncio.sleep(4)
        await running.fault("h100", errors=1.0)

        async def failed() -> bool:
            return bool((await running.row("h100"))["health"] == "failed")

        await seconds_until(failed, 15, "h100 is out")
