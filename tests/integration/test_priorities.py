"""In overload LOW is refused first, HIGH keeps room, and a retry goes before first tries of its kind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ruamel.yaml import YAML

from gpuxds.assets import asset
from support.guards import Answer, ask, guarded, running, start_guard, start_proxy
from support.stack import Stack, stack
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(120)]

CAPACITY = 8
TOKENS = 24
"""About 0.3 s on an A100-80 that runs 8."""
BUSY_S = 8.0
PRIORITIES = YAML(typ="safe").load(asset("policies", "examples", "guards-and-priorities.yaml"))["priorities"]


async def arrive(url: str, rates: dict[str, float], duration_s: float) -> list[Answer]:
    """Open-loop arrivals: team -> requests per second, whatever became of earlier ones."""
    rng, loop = random.Random(1), asyncio.get_running_loop()
    plan: list[tuple[float, str]] = []
    for team, rate in rates.items():
        at = rng.expovariate(rate)
        while at < duration_s:
            plan.append((at, team))
            at += rng.expovariate(rate)
    started, tasks = loop.time(), []
    limit, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=limit, timeout=timeout) as session:
        for at, team in sorted(plan):
            await asyncio.sleep(max(0.0, started + at - loop.time()))
            tasks.append(asyncio.ensure_future(ask(session, url, TOKENS, {"x-team": team})))
        return await asyncio.gather(*tasks)


async def served_per_s(made: Stack) -> float:
    """What the endpoint serves when it is full all the time."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        loop = asyncio.get_running_loop()
        started = loop.time()
        answers = await asyncio.gather(
            *(ask(session, made.url, TOKENS, {"x-team": "shop"}) for _ in range(4 * CAPACITY))
        )
        assert all(answer.status == 200 for answer in answers)
        return len(answers) / (loop.time() - started)


async def test_at_twice_the_capacity_all_that_is_high_succeeds_and_the_refusals_fall_on_low(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        queue: dict[str, Any] = {"timeout": "2s", "max_waiting": 3 * CAPACITY}
        made.write_policy(guarded(made, CAPACITY, queue, priorities=PRIORITIES))
        await made.start_control_plane()
        await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        capacity_rps = await served_per_s(made)
        rates = {"shop": 0.4 * capacity_rps, "batch": 1.6 * capacity_rps}
        answers = await arrive(made.url, rates, BUSY_S)
        found = Counter((answer.asked["x-team"], answer.status) for answer in answers)
        assert set(found) == {("shop", 200), ("batch", 200), ("batch", 429)}, found
        assert found["batch", 429] > 0.4 * found["batch", 200], "it was overloaded"


async def test_a_retry_goes_before_first_tries_of_its_kind_and_below_those_of_a_higher_one(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 1, {"timeout": "30s", "max_waiting": 16}, priorities=PRIORITIES))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        url = f"http://127.0.0.1:{made.ports['a'] + made.guard_offset}/v1/completions"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            first = asyncio.ensure_future(ask(session, url, 100))
            await until(lambda: running(made, "a", 1), 5, "one runs")
            kinds = {
                "low": {"x-team": "batch"},
                "retried low": {"x-team": "crawl", "x-envoy-attempt-count": "2"},
                "high": {"x-team": "shop"},
                "retried high": {"x-team": "shop", "x-envoy-attempt-count": "3"},
                "none": {},
            }
            waiting = {}
            for count, (kind, headers) in enumerate(kinds.items(), start=2):
                waiting[kind] = asyncio.ensure_future(ask(session, url, 4, headers))
                await until(partial(stands, guard, count), 5, f"{kind} waits")
            answers = {kind: await task for kind, task in waiting.items()}
            await first
        ended = sorted(answers, key=lambda kind: answers[kind].sent_at + answers[kind].took_s)
        assert ended == ["retried high", "high", "retried low", "none", "low"]


async def stands(guard: Any, count: int) -> bool:
    return bool(await guard.stat("http.guard.downstream_rq_active") == count)


async def test_a_client_cannot_choose_its_priority_by_a_header_that_no_rule_names(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a": "A100-80"}, control_plane=False, envoy=False) as made:
        made.write_policy(guarded(made, 1, {"timeout": "30s", "max_waiting": 1}, priorities=PRIORITIES))
        await made.start_control_plane()
        guard = await start_guard(made, "a")
        await start_proxy(made, "envoy-1")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            first = asyncio.ensure_future(ask(session, made.url, 100))
            await until(lambda: running(made, "a", 1), 5, "one runs")
            second = asyncio.ensure_future(ask(session, made.url, 4))
            await until(lambda: stands(guard, 2), 5, "the line is full")
            forged = {"x-priority": "URGENT", "x-envoy-attempt-count": "9", "x-gpuxds-priority": "URGENT"}
            assert (await ask(session, made.url, 4, forged)).status == 429
            outranks = asyncio.ensure_future(ask(session, made.url, 4, {"x-team": "shop"}))
            assert (await second).status == 429, "the one in line made room"
            assert (await outranks).status == 200
            await first
