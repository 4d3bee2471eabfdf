"""An endpoint never runs more than its capacity, however many Envoys send it requests."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from support.guards import (
    Answer,
    Envoy,
    ask,
    ask_many,
    guarded,
    running,
    start_envoy,
    start_guard,
    start_proxy,
    statuses,
)
from support.stack import Stack, stack
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(120)]

TOKENS = 16
"""On an A100-80 about 0.2 s."""


async def most_at_once(made: Stack, name: str) -> int:
    async with made.session.get(f"http://127.0.0.1:{made.control_port}/fake") as response:
        return int((await response.json())[name]["most_at_once"])


def refused_well(answer: Answer) -> bool:
    error = answer.body["error"]
    return int(answer.headers["retry-after"]) >= 1 and error["code"] == "at_capacity" and bool(error["message"])


async def test_three_envoys_of_two_workers_never_run_more_than_the_capacity_of_one_endpoint(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 4, {"timeout": "2s", "max_waiting": 64}))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        proxies = [await start_proxy(made, f"envoy-{number}", concurrency=2) for number in range(3)]
        answers = await ask_many(made.url, 200, TOKENS)
        assert set(statuses(answers)) == {200, 429}
        assert all(refused_well(answer) for answer in answers if answer.status == 429)
        assert await most_at_once(made, "a") == 4
        assert statuses(answers)[200] >= 4 + 8, "those that waited were served as well"
        assert max(answer.took_s for answer in answers) < 10
        through = [await proxy.stat("http.gpuxds.downstream_rq_total") for proxy in proxies]
        assert sum(through) == 200
        assert min(through) > 0, "every Envoy had a part in it"
        assert await guard.stat("cluster.engine.upstream_rq_total") == statuses(answers)[200]


async def test_a_full_endpoint_sends_requests_elsewhere_at_once_and_they_wait_when_all_are_full(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, {"a": "A100-80", "b": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 2, {"timeout": "10s", "max_waiting": 8}))
        await made.start_control_plane()
        guards = {name: await start_guard(made, name) for name in ("a", "b")}
        proxy = await start_proxy(made, "envoy-1")
        async with aiohttp.ClientSession() as session:
            direct = f"http://127.0.0.1:{made.ports['a'] + made.guard_offset}/v1/completions"
            long = [asyncio.ensure_future(ask(session, direct, 300)) for _ in range(2)]
            await until(lambda: running(made, "a", 2), 5, "a is full")
            short = [await ask(session, made.url, 4) for _ in range(8)]
            assert {(answer.status, answer.headers["x-fake-gpu"]) for answer in short} == {(200, "b")}
            assert await proxy.stat("cluster.llama.upstream_rq_retry") > 0, "some were sent to a first"
            assert not any(task.done() for task in long)
            more = await asyncio.gather(*(ask(session, made.url, 40) for _ in range(8)))
            assert statuses(more) == {200: 8}, "there was room in line"
            assert [answer.status for answer in await asyncio.gather(*long)] == [200, 200]
        for name in guards:
            assert await most_at_once(made, name) == 2


async def test_without_a_queue_a_full_endpoint_answers_429_at_once_and_a_cold_one_takes_all_it_can(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 4, None))
        await made.start_control_plane()
        await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        answers = await ask_many(made.url, 12, 100)
        assert statuses(answers) == {200: 4, 429: 8}
        slowest_refusal = max(answer.took_s for answer in answers if answer.status == 429)
        assert slowest_refusal < min(answer.took_s for answer in answers if answer.status == 200)


async def test_clients_that_go_away_leave_their_place_to_others(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 2, {"timeout": "20s", "max_waiting": 2}))
        await made.start_control_plane()
        await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        async with aiohttp.ClientSession() as session:
            patient = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            async with patient:
                gone = [asyncio.ensure_future(ask(patient, made.url, 2000)) for _ in range(4)]
                await until(lambda: running(made, "a", 2), 5, "two run")
                assert (await ask(session, made.url, 4)).status == 429, "two run and two are in line"
                for task in gone:
                    task.cancel()
                await asyncio.gather(*gone, return_exceptions=True)
            answers = [await ask(session, made.url, 4) for _ in range(4)]
            assert [answer.status for answer in answers] == [200] * 4
            assert max(answer.took_s for answer in answers) < 5, "nobody waited for those who left"


async def test_the_limit_holds_in_a_guard_that_was_started_with_several_workers(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 3, {"timeout": "2s", "max_waiting": 16}))
        await made.start_control_plane()
        await start_guard(made, "a", concurrency=2)
        await start_proxy(made, "envoy-1", concurrency=2)
        answers = await ask_many(made.url, 60, TOKENS)
        assert set(statuses(answers)) == {200, 429}
        assert await most_at_once(made, "a") == 3


async def test_a_large_body_waits_in_line_and_arrives_whole(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 1, {"timeout": "20s", "max_waiting": 2}))
        await made.start_control_plane()
        await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        async with aiohttp.ClientSession() as session:
            first = asyncio.ensure_future(ask(session, made.url, 100))
            await until(lambda: running(made, "a", 1), 5, "one runs")
            body = json.dumps({"padding": "a" * 10_000_000, "prompt": "a" * 12, "max_tokens": 1}).encode()
            async with session.post(made.url, data=io.BytesIO(body)) as response:
                answer = await response.json()
            assert (await first).status == 200
            assert await most_at_once(made, "a") == 1, "it waited"
            assert answer["usage"]["prompt_tokens"] == 3, "it was JSON to its end"
            assert response.status == 200


async def test_guards_are_shown_and_are_no_proxies(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80", "b": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 4, {"timeout": "2s", "max_waiting": 8}))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        lost = await start_envoy(made, 1, guarded="c")

        async def groups() -> dict[str, str] | None:
            proxies = (await made.api("/api/v1/proxies"))["proxies"]
            settled = len(proxies) == 3 and all(proxy["in_sync"] for proxy in proxies)
            return {proxy["node_id"]: proxy["group"] for proxy in proxies} if settled else None

        found = await until(groups, 10, "all three are connected")
        assert found == {"guard-a": "guard:a", "envoy-1": "all", "guard-c": "guard:c (no such endpoint)"}
        assert await lost.stat("listener_manager.total_listeners_active") == 0
        rows = {row["id"]: row["guard"] for row in (await made.api("/api/v1/explain"))["endpoints"]}
        port = made.ports["a"] + made.guard_offset
        assert rows["a"] == {"port": port, "capacity": 4, "max_waiting": 8, "wait_s": 2.0, "connected": 1}
        assert rows["b"]["connected"] == 0

        async def counted() -> int:
            loads = (await made.api("/api/v1/loadbalancer/loads"))["instances"]
            return next(int(load["total"] or 0) for load in loads if load["instance"] == "a")

        async def counting() -> int:
            await ask_many(made.url, 1, 4)
            return await counted()

        await until(counting, 10, "proxies report; their first report lacks what came before it")
        await until(lambda: settles(counted), 10, "all is reported")
        before, sent_before = await counted(), await guard.stat("http.guard.downstream_rq_total")
        await ask_many(made.url, 6, 4)
        sent = await guard.stat("http.guard.downstream_rq_total") - sent_before

        async def told() -> bool:
            return await counted() - before == sent >= 6

        await until(told, 10, "requests are counted once, although two Envoys saw them")
        state = json.loads(next(tmp_path.glob("policy-*.json")).read_text())
        assert state["proxies"] == {"llama": 1}, "weights are for one proxy"


async def test_overload_takes_no_server_out_of_service(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80", "b": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 2, {"timeout": "1s", "max_waiting": 2}))
        await made.start_control_plane()
        for name in ("a", "b"):
            await start_guard(made, name)
        await start_proxy(made, "envoy-1")
        for _ in range(4):
            answers = await ask_many(made.url, 40, TOKENS)
            assert statuses(answers)[429] > 0, "this is no overload"
        events = made.log()
        assert "its requests fail one after the other" not in events
        assert {row["health"] for row in (await made.api("/api/v1/endpoints"))["endpoints"]} == {"serving"}


async def test_a_proxy_at_its_own_limit_answers_as_a_guard_does(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 2, {"timeout": "3s", "max_waiting": 14}))
        await made.start_control_plane()
        await start_guard(made, "a")
        proxy = await start_proxy(made, "envoy-1")
        answers = await ask_many(made.url, 400, 4)
        assert set(statuses(answers)) == {200, 429}
        assert all(refused_well(answer) for answer in answers if answer.status == 429)
        assert await proxy.stat("cluster.llama.upstream_rq_pending_overflow") > 0, "some met the proxy's limit"


async def test_guards_go_on_when_the_control_plane_is_away_and_follow_a_new_capacity_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 2, {"timeout": "20s", "max_waiting": 64}))
        await made.start_control_plane()
        await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        await made.processes.kill("control-plane")
        assert statuses(await ask_many(made.url, 12, 4)) == {200: 12}
        assert await most_at_once(made, "a") == 2
        made.write_policy(guarded(made, 5, {"timeout": "20s", "max_waiting": 64}))
        await made.start_control_plane()

        async def wider() -> bool:
            answers = await ask_many(made.url, 20, 4)
            return statuses(answers) == {200: 20} and await most_at_once(made, "a") == 5

        await until(wider, 20, "the guard has the new capacity")


async def test_an_edit_of_queue_and_priorities_lets_no_more_run_while_it_takes_effect(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 3, {"timeout": "20s", "max_waiting": 64}))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        rules = [{"header": "x-team", "values": ["shop"], "priority": "URGENT"}]
        priorities = {"trusted_headers": ["x-team"], "rules": rules, "reserved_percent": 0.0}
        busy = asyncio.ensure_future(ask_many(made.url, 40, TOKENS))
        await until(lambda: running(made, "a", 3), 5, "it is full")
        updates = await guard.stat("listener_manager.lds.update_success")
        made.write_policy(guarded(made, 3, {"timeout": "10s", "max_waiting": 40}, priorities=priorities))
        await until(lambda: more(guard, updates), 5, "the edit is in force")
        answers = await ask_many(made.url, 30, TOKENS) + await busy
        assert set(statuses(answers)) <= {200, 429}
        assert statuses(answers)[200] > 30
        assert await most_at_once(made, "a") == 3


async def test_after_an_edit_of_the_queue_requests_go_on_waiting_for_what_runs(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 3, {"timeout": "20s", "max_waiting": 20}))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        busy = asyncio.ensure_future(ask_many(made.url, 3, 6 * TOKENS))
        await until(lambda: running(made, "a", 3), 5, "it is full")
        updates = await guard.stat("listener_manager.lds.update_success")
        made.write_policy(guarded(made, 3, {"timeout": "20s", "max_waiting": 21}))
        await until(lambda: more(guard, updates), 5, "the edit is in force")
        assert statuses(await ask_many(made.url, 3, 4)) == {200: 3}
        assert statuses(await busy) == {200: 3}
        assert await most_at_once(made, "a") == 3


async def more(guard: Envoy, updates: int) -> bool:
    return await guard.stat("listener_manager.lds.update_success") > updates


async def settles(count: Callable[[], Awaitable[int]]) -> bool:
    """Whether a count stays the same for longer than reports take."""
    before = await count()
    await asyncio.sleep(2.5)
    return await count() == before


@pytest.mark.parametrize("sotw", [False, True], ids=["incremental", "state of the world"])
async def test_an_edit_of_the_capacity_counts_what_runs_already(tmp_path: Path, sotw: bool) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 3, {"timeout": "30s", "max_waiting": 64}))
        await made.start_control_plane()
        guard = await start_guard(made, "a", sotw=sotw)
        await start_proxy(made, "envoy-1")
        busy = asyncio.ensure_future(ask_many(made.url, 3, 500))
        await until(lambda: running(made, "a", 3), 5, "it is full")
        made.write_policy(guarded(made, 5, {"timeout": "30s", "max_waiting": 64}))
        await until(lambda: lets_through(guard, 5), 5, "the edit is in force")
        assert statuses(await ask_many(made.url, 12, TOKENS)) == {200: 12}
        assert not busy.done()
        assert await most_at_once(made, "a") == 5, "the three that ran were counted"
        more = asyncio.ensure_future(ask_many(made.url, 2, 500))
        await until(lambda: running(made, "a", 5), 5, "it is full again")
        made.write_policy(guarded(made, 2, {"timeout": "30s", "max_waiting": 64}))
        await until(lambda: lets_through(guard, 2), 5, "the second edit is in force")
        late = asyncio.ensure_future(ask_many(made.url, 4, TOKENS))
        assert statuses(await busy) == {200: 3}
        assert not late.done()
        assert statuses(await more) == {200: 2}, "nothing that ran was cut"
        assert statuses(await late) == {200: 4}
        assert await most_at_once(made, "a") == 5


async def test_an_endpoint_that_was_away_for_a_moment_is_not_empty_when_it_is_back(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80", "b": "A100-80"}, control_plane=False, envoy=False) as made:
        both = guarded(made, 3, {"timeout": "30s", "max_waiting": 64})
        both["pools"][0]["retries"] = {"attempts": 0}
        made.write_policy(both)
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        direct = f"http://127.0.0.1:{made.ports['a'] + made.guard_offset}/v1/completions"
        busy = asyncio.ensure_future(ask_many(direct, 3, 700))
        await until(lambda: running(made, "a", 3), 5, "it is full")
        away = both["pools"][0]["endpoints"].pop(0)
        made.write_policy(both)
        await until(lambda: lets_through(guard, 0), 5, "it is gone")
        both["pools"][0]["endpoints"].append(away)
        both["pools"][0]["timeouts"] = {"connect": "2s"}
        made.write_policy(both)
        await until(lambda: lets_through(guard, 3), 5, "it is back")
        await until(guard.guards, 5, "it listens again")
        late = asyncio.ensure_future(ask_many(direct, 6, TOKENS))
        assert statuses(await busy) == {200: 3}, "nothing that ran was cut"
        assert statuses(await late) == {200: 6}
        assert await most_at_once(made, "a") == 3


async def lets_through(guard: Envoy, most: int) -> bool:
    values = json.loads(await guard.page("/runtime"))["entries"]
    return str(values["circuit_breakers.engine.default.max_requests"]["final_value"]) == str(most)
