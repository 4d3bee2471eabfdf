"""What happens to fleets, across real network boundaries and under load: no request fails that need not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.compose import GPUS, SETTLE_S, Containers, Loads
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("docker"), pytest.mark.timeout(240)]

RATE_RPS = 8.0
PARTITION_S = 30.0
STOP_S = 5.0
WRONG = "version: 1\npools:\n  - name: llama\n    strategy: gpu_awre\n    endpoints: []\n"


async def some_answers(loads: Loads, count: int = 20) -> None:
    """Wait until traffic flows."""
    await until(lambda: len(loads.outcomes) >= count, 60, f"{count} requests are answered")


async def test_weights_follow_a_throttled_server_on_both_envoys(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        before = await running.share("h100")
        await running.fault("h100", throttle=2.0)

        async def less() -> bool:
            return await running.share("h100") < 0.8 * before and await running.agree()

        took = await seconds_until(less, 30, "the throttled server's share falls on both Envoys")
        print(f"share of h100 {before:.0%} -> {await running.share('h100'):.0%} after {took:.1f} s")
        await running.fault("h100", throttle=1.0)

        async def back() -> bool:
            return await running.share("h100") > 0.9 * before

        await until(back, 60, "its share returns")
    assert loads.failures == []


async def test_a_drained_server_leaves_both_envoys_and_no_request_fails(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        answer = await running.api("/api/v1/endpoints/a100-80/drain", {"reason": "disk", "deadline": "5m"})
        assert answer["acknowledged"]
        drained_at = time.monotonic()

        async def gone() -> bool:
            return await running.everywhere("a100-80", "") and await running.agree()

        await until(gone, SETTLE_S, "the drained server left both Envoys")
        await until(lambda: loads.finished_since(drained_at) > 20, 60, "requests go on")
        await running.api("/api/v1/endpoints/a100-80/undrain", {})
        await until(running.calm, SETTLE_S, "it is back")
    assert loads.failures == []
    late = [
        o for o in loads.outcomes if o.endpoint == "a100-80" and drained_at + 0.5 < o.started_at < drained_at + 2
    ]
    assert late == [], "a drained server was sent new requests"


async def test_a_killed_server_costs_only_what_it_was_answering(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        container = await running.id("h100")
        killed_at = time.monotonic()
        await running.change("kill", container)
        gone_at = time.monotonic()

        async def out() -> bool:
            return await running.everywhere("h100", "UNHEALTHY") and await running.agree()

        took = await seconds_until(out, 30, "both Envoys know that it is gone")
        print(f"out of both Envoys {took:.1f} s after the kill; {len(loads.failures)} requests failed")
        await until(lambda: loads.finished_since(gone_at) > 20, 60, "requests go on")
        await running.change("start", container)
        await until(running.calm, SETTLE_S, "it serves again")
    for failure in loads.failures:
        in_flight = failure.started_at <= gone_at and failure.finished_at >= killed_at
        assert in_flight, f"failed without being in flight at the kill: {failure}"
        assert failure.endpoint == "h100", f"failed on another server: {failure}"


async def test_a_partition_moves_nothing_and_heals_by_itself(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        await running.cut_off("control-plane", "mesh")
        cut_at = time.monotonic()
        before = await running.views()
        await until(lambda: frozen(running), 20, "the control plane knows that it is the blind one")
        await asyncio.sleep(max(0.0, cut_at + PARTITION_S - time.monotonic()))
        assert await running.views() == before, "weights or health moved without a control plane"
        assert loads.finished_since(cut_at) > PARTITION_S * RATE_RPS / 2
        assert loads.failures == []
        await until(lambda: running.firing("GpuxdsFleetFrozen"), 30, "the alert on a frozen fleet fires")

        await running.plug_in("control-plane", "mesh", "control-plane-xds")
        took = await seconds_until(running.calm, SETTLE_S, "both Envoys are in sync again")
        print(f"in sync {took:.1f} s after the partition healed")
        after = await running.views()
        assert {name for view in after for name in view} == set(GPUS)
        assert all(view["h100"][0] > view["l4"][0] for view in after), f"weights were flattened: {after}"
        await until(lambda: thawed(running), 30, "the pool is no longer frozen")
    assert loads.failures == []


async def frozen(running: Containers) -> bool:
    return await running.metric('gpuxds_pool_frozen{pool="llama"}') == 1


async def thawed(running: Containers) -> bool:
    return not await frozen(running)


async def test_a_restarted_and_a_recreated_control_plane_remember(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        await running.api("/api/v1/endpoints/l40s/drain", {"reason": "before the restart", "deadline": "10m"})
        await until(lambda: running.everywhere("l40s", ""), SETTLE_S, "the server is drained")
        first = await running.id("control-plane")
        for change in (running.change("restart", "--time", "5", first), recreate(running)):
            await change
            took = await seconds_until(running.in_sync, SETTLE_S, "both Envoys are in sync")
            print(f"in sync {took:.1f} s later")
            row = (await running.rows())["l40s"]
            assert row["health"] == "drained"
            assert row["drain"]["reason"] == "before the restart"
            assert await running.everywhere("l40s", ""), "a drained server came back"
            assert await running.agree()
        assert await running.id("control-plane") != first
        await running.api("/api/v1/endpoints/l40s/undrain", {})
        await until(running.calm, SETTLE_S, "it is back")
    assert loads.failures == []


async def recreate(running: Containers) -> None:
    """A new container with the old volume."""
    await running.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", "control-plane")


async def test_a_control_plane_that_dies_is_started_again_by_docker(running: Containers) -> None:
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        before = await running.inspect("control-plane")
        await running.run("kill", "-9", str(before["State"]["Pid"]))
        running.known.clear()

        async def again() -> bool:
            now = await running.inspect("control-plane")
            return bool(now["State"]["Running"]) and now["RestartCount"] > before["RestartCount"]

        await until(again, 30, "Docker started it again")
        await until(running.calm, SETTLE_S, "both Envoys are in sync")
    assert loads.failures == []


async def test_a_wrong_policy_mounted_over_the_good_one_changes_nothing(running: Containers) -> None:
    policy = running.policy_dir / "policy.yaml"
    good = policy.read_text()
    async with running.load(RATE_RPS) as loads:
        await some_answers(loads)
        try:
            replace(policy, WRONG)
            await until(lambda: rejected(running), 10, "the wrong policy is rejected")
            assert await healthy_everywhere(running)
            await until(lambda: running.firing("GpuxdsPolicyRejected"), 30, "the alert fires")

            await recreate(running)
            await until(running.calm, SETTLE_S, "the last good policy is served from the state volume")
            assert await rejected(running)
        finally:
            replace(policy, good)

        async def accepted() -> bool:
            return not await rejected(running)

        await until(accepted, 10, "the good policy is in force")
        await until(running.calm, SETTLE_S, "calm")
    assert loads.failures == []


def replace(path: Path, text: str) -> None:
    """Save as editors do: a new file renamed over the old one."""
    new = path.with_suffix(".tmp")
    new.write_text(text)
    new.replace(path)


async def rejected(running: Containers) -> bool:
    return await running.metric("gpuxds_policy_last_reload_success") == 0


async def healthy_everywhere(running: Containers) -> bool:
    return all([await running.everywhere(name, "HEALTHY") for name in GPUS])


@pytest.mark.parametrize("service", ["control-plane", "l4", "envoy-2"])
async def test_a_container_stops_within_seconds_when_asked(running: Containers, service: str) -> None:
    container = await running.id(service)
    asked_at = time.monotonic()
    await running.change("stop", "--time", "30", container)
    took = time.monotonic() - asked_at
    state = (await running.inspect(service))["State"]
    await running.change("start", container)
    print(f"{service} stopped after {took:.1f} s")
    assert state["ExitCode"] == 0, "it was killed instead of stopping"
    assert took < STOP_S
    await until(running.calm, SETTLE_S, "it is back")
