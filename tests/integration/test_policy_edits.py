"""An operator saves a policy while traffic runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.stack import Stack, stack
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(120)]

FLEET = {"a": "A100-80", "b": "A100-80", "c": "L40S"}


@pytest.mark.parametrize("sotw", [False, True], ids=["incremental", "state of the world"])
async def test_an_edit_that_changes_the_cluster_leaves_no_gap(tmp_path: Path, sotw: bool) -> None:
    async with stack(tmp_path, FLEET, envoy=False) as running:
        await running.start_envoy(sotw=sotw)
        async with running.load(10.0) as load:
            await asyncio.sleep(2)
            at = time.monotonic()
            updates = await running.stat("cluster_manager.cluster_modified")
            edited = running.policy()
            edited["pools"][0]["timeouts"] = {"connect": "2s"}
            running.write_policy(edited)

            async def applied() -> bool:
                return await running.stat("cluster_manager.cluster_modified") > updates

            assert await seconds_until(applied, 3, "the edit reaches Envoy") < 1.5

            async def warm() -> bool:
                return await running.stat("cluster_manager.warming_clusters") == 0

            assert await seconds_until(warm, 5, "no cluster is warming") < 0.5
            await asyncio.sleep(2)
            assert load.window(at, time.monotonic()).failed == 0
            assert set(await running.hosts()) == set(FLEET)


async def test_a_wrong_edit_changes_nothing_and_is_seen_everywhere(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running:
        before = (await running.weights(), await running.stat("cluster_manager.cluster_modified"))
        broken = running.policy()
        broken["pools"][0]["endpoints"][1]["capacty"] = 3
        running.write_policy(broken)

        async def refused() -> bool:
            return await running.metric("gpuxds_policy_reload_failures_total") == 1

        assert await seconds_until(refused, 3, "the failure is counted") < 1.5
        assert await running.metric("gpuxds_policy_last_reload_success") == 0
        answer = await running.api("/api/v1/policy")
        assert "did you mean 'capacity'" in answer["last_reload"]["problems"][0]
        assert "policy.refused" in running.log()
        await asyncio.sleep(1.5)
        assert (await running.weights(), await running.stat("cluster_manager.cluster_modified")) == before
        running.write_policy(running.policy())

        async def good() -> bool:
            return await running.metric("gpuxds_policy_last_reload_success") == 1

        await until(good, 3, "the mended policy is in force")


async def test_a_new_pool_is_routed_and_a_removed_one_disappears_without_a_failed_request(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running, running.load(10.0) as load:
        two = running.policy()
        second = {"name": "other", "match": {"prefix": "/v1/chat"}, "endpoints": [running.endpoint("c")]}
        two["pools"][0]["endpoints"] = two["pools"][0]["endpoints"][:2]
        two["pools"].append(second)
        running.write_policy(two)
        await until(lambda: clusters(running, {"llama", "other"}), 5, "both clusters are there")
        async with running.session.post(
            running.url.replace("completions", "chat/completions"),
            json={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2},
        ) as response:
            assert response.headers["x-fake-gpu"] == "c"
        running.write_policy(running.policy())
        await until(lambda: clusters(running, {"llama"}), 8, "the removed cluster is gone")
        assert load.window(0, time.monotonic()).failed == 0


async def clusters(running: Stack, wanted: set[str]) -> bool:
    found = {status["name"] for status in (await running.envoy("/clusters?format=json"))["cluster_statuses"]}
    return found - {"gpuxds"} == wanted


async def test_file_sd_endpoints_come_and_go_with_their_file(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET) as running:
        policy = running.policy()
        policy["pools"][0]["endpoints"] = [running.endpoint("a")]
        policy["pools"][0]["file_sd"] = {"files": ["targets/*.json"], "gpu": {"model": "A100-80"}}
        (tmp_path / "targets").mkdir()
        targets = tmp_path / "targets" / "b.json"
        targets.write_text(f'[{{"targets": ["127.0.0.1:{running.ports["b"]}"], "labels": {{"zone": "z1"}}}}]')
        running.write_policy(policy)

        async def have(names: set[str]) -> bool:
            return set(await running.hosts()) == names

        await until(lambda: have({"a", "b"}), 5, "the target is in Envoy")
        targets.write_text("[{")
        await asyncio.sleep(1.5)
        assert await have({"a", "b"}), "a file being written took its endpoints out"
        targets.write_text("[]")
        await until(lambda: have({"a"}), 5, "the target left Envoy")
