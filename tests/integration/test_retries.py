"""Requests find another endpoint when theirs fails or hangs, within a budget; nothing that has begun is cut."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gpuxds.assets import asset
from gpuxds.policy.loader import load
from gpuxds.policy.model import Policy
from gpuxds.policy.strategies import GpuAware
from gpuxds.snapshot.assemble import assemble
from gpuxds.snapshot.resources import config
from support.ads import assignment, snapshot_of
from support.front import front, one_pool
from support.upstreams import Answer
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(60)]


async def test_a_failing_server_is_tried_three_more_times_each_elsewhere_and_each_says_its_number(
    tmp_path: Path,
) -> None:
    async with front(tmp_path, one_pool(4)) as running:
        for server in running.servers:
            server.status = 503
        answer = await running.ask(x_envoy_attempt_count="9", x_envoy_max_retries="9")
        assert answer.status == 503
        assert [len(server.seen) for server in running.servers] == [1, 1, 1, 1]
        assert running.numbers() == ["1", "2", "3", "4"], "what the client says of attempts does not count"
        assert answer.headers["x-gpuxds-attempts"] == "4"


def by_least_request(count: int) -> Policy:
    """The pool with the default strategy."""
    policy = one_pool(count)
    pools = [pool.model_copy(update={"strategy": GpuAware()}) for pool in policy.pools]
    return policy.model_copy(update={"pools": pools})


@pytest.mark.parametrize("count", [2, 3])
async def test_a_server_that_fails_at_once_is_the_least_busy_and_costs_no_request_all_the_same(
    tmp_path: Path, count: int
) -> None:
    async with front(tmp_path, by_least_request(count)) as running:
        for server in running.servers:
            server.delay_s = 4.0
        busy = [asyncio.ensure_future(running.ask()) for _ in range(4 * count)]
        await until(lambda: running.attempts == 4 * count, 10, "all servers are busy")
        failing = running.servers[0]
        failing.status, failing.delay_s = 503, 0.0
        for server in running.servers[1:]:
            server.delay_s = 0.0
        answers = [await running.ask() for _ in range(30)]
        assert [answer.status for answer in answers] == [200] * 30
        assert len(failing.seen) > 4, "the failing server was never tried"
        await asyncio.gather(*busy)


async def test_a_heavy_server_that_fails_costs_no_request(tmp_path: Path) -> None:
    policy = by_least_request(3)
    async with front(tmp_path, policy) as running:
        weights = {"p": [1_000_000, 625, 625]}
        running.served.publish(snapshot_of(running.policy, weights))
        await running.served.settled()
        running.servers[0].status = 503
        answers = [await running.ask() for _ in range(12)]
        assert [answer.status for answer in answers] == [200] * 12
        assert len(running.servers[0].seen) > 1


async def test_the_answer_says_which_endpoint_served_at_which_attempt(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(3)) as running:
        good = running.servers[2]
        running.servers[0].status = running.servers[1].status = 502
        for _ in range(6):
            before = running.attempts
            answer = await running.ask()
            assert answer.text == str(good.port)
            assert answer.headers["x-gpuxds-endpoint"] == f"127.0.0.1:{good.port}"
            assert answer.headers["x-gpuxds-attempts"] == str(running.attempts - before)
        assert running.attempts > 6


async def test_an_answer_the_policy_does_not_name_is_not_tried_again(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(2)) as running:
        for server in running.servers:
            server.status = 500
        assert (await running.ask()).status == 500
        assert running.attempts == 1


async def test_a_large_request_is_tried_again_too(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(2)) as running:
        running.servers[0].status = 503
        answers = [await running.ask(b"x" * 10_485_760) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert "2" in {answer.headers["x-gpuxds-attempts"] for answer in answers}
        assert {size for server in running.servers for size in server.bodies} == {10_485_760}


async def test_requests_of_a_stuck_server_are_answered_by_another_and_none_is_lost(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(4, "    retries: {stuck_after: 400ms}\n")) as running:
        stuck = running.servers[1]
        stuck.hang = True
        answers = await asyncio.gather(*(running.ask() for _ in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert {answer.headers["x-gpuxds-attempts"] for answer in answers} == {"1", "2"}
        assert len(stuck.seen) == 5
        await until(lambda: stuck.open == 0, 5, "what was given to the stuck server is cancelled")


async def test_a_slow_answer_is_not_cut_when_another_try_is_started_beside_it(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(2, "    retries: {stuck_after: 300ms}\n")) as running:
        slow, stuck = running.servers
        slow.delay_s, stuck.hang = 1.0, True
        answers = [await running.ask() for _ in range(2)]
        assert {answer.text for answer in answers} == {str(slow.port)}
        slow.chunks, slow.gap_s, slow.delay_s = 4, 0.4, 0.0
        for stream in [await running.ask() for _ in range(2)]:
            assert (stream.text.count("data:"), stream.error) == (4, "")


async def test_no_request_is_lost_when_a_server_dies_with_requests_of_its_own(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(4)) as running:
        for server in running.servers:
            server.delay_s = 1.0
        waiting = [asyncio.ensure_future(running.ask()) for _ in range(80)]
        await until(lambda: running.attempts == 80, 5, "all are under way")
        await running.servers[0].die()
        answers = await asyncio.gather(*waiting)
        assert [answer.status for answer in answers] == [200] * 80
        assert sorted({answer.headers["x-gpuxds-attempts"] for answer in answers}) == ["1", "2"]


async def test_in_a_brown_out_retries_add_no_more_than_their_budget(tmp_path: Path) -> None:
    retries = "    retries: {budget_percent: 20, budget_minimum: 1}\n"
    async with front(tmp_path, one_pool(4, retries)) as running:
        for server in running.servers:
            server.status, server.delay_s = 503, 0.2
        end = time.monotonic() + 3
        asked = 0

        async def client() -> None:
            nonlocal asked
            while time.monotonic() < end:
                asked += 1
                await running.ask()

        await asyncio.gather(*(client() for _ in range(100)))
        assert asked > 300
        assert asked < running.attempts <= 1.2 * asked
        assert await running.served.stat("cluster.p.upstream_rq_retry_overflow") > 0


async def test_a_stalled_stream_is_cut_by_the_idle_timeout_and_a_long_one_by_nothing(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(1, "    timeouts: {idle: 600ms}\n")) as running:
        server = running.servers[0]
        server.chunks, server.gap_s = 12, 0.2
        long = await running.ask()
        assert (long.status, long.error, long.text.count("data:")) == (200, "", 12)
        assert long.seconds > 3 * 0.6
        server.gap_s = 30.0
        stalled = await asyncio.wait_for(running.ask(), 10)
        assert stalled.error, "the client sees that the stream broke off"
        assert stalled.text.count("data:") == 1


async def test_without_retries_a_request_is_sent_once_and_says_nothing_of_attempts(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(2, "    retries: {attempts: 0}\n")) as running:
        for server in running.servers:
            server.status = 503
        assert (await running.ask()).status == 503
        (seen,) = [seen for server in running.servers for seen in server.seen]
        assert "x-envoy-attempt-count" not in seen


async def test_an_answer_of_envoys_own_names_no_endpoint(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(1)) as running:
        running.served.publish(assemble(config(running.policy, None, {}), {"p": assignment("p", [])}))

        async def refused() -> Answer | None:
            answer = await running.ask()
            return answer if answer.status == 503 else None

        answer = await until(refused, 5, "nobody serves")
        assert "x-gpuxds-endpoint" not in answer.headers


SHORT = {"prompt": "hello", "max_tokens": 8}


async def test_hedging_wins_on_a_slow_server_for_small_requests_that_are_not_streamed(tmp_path: Path) -> None:
    async with front(tmp_path, one_pool(2, "    hedging: {after: 200ms, max_body_bytes: 1024}\n")) as running:
        slow, fast = running.servers
        slow.delay_s = 3.0
        answers = [await running.ask(SHORT) for _ in range(4)]
        assert {answer.text for answer in answers} == {str(fast.port)}
        assert "2" in {answer.headers["x-gpuxds-attempts"] for answer in answers}
        assert max(answer.seconds for answer in answers) < slow.delay_s
        await until(lambda: slow.open == 0, 5, "the try that lost is cancelled")


@pytest.mark.parametrize(
    "body",
    [
        {**SHORT, "stream": True},
        {**SHORT, "prompt": "x" * 2000},
        b'{"prompt": "x", "stream"\n:\ttrue}',
        gzip.compress(json.dumps(SHORT).encode()),
        b"",
    ],
    ids=["streamed", "large", "streamed, oddly written", "compressed", "empty"],
)
async def test_other_requests_are_never_hedged(tmp_path: Path, body: bytes | dict[str, Any]) -> None:
    async with front(tmp_path, one_pool(2, "    hedging: {after: 200ms, max_body_bytes: 1024}\n")) as running:
        for server in running.servers:
            server.delay_s = 1.0
        answer = await running.ask(body, content_type="application/json", x_gpuxds_stream="false")
        assert (answer.status, running.attempts) == (200, 1)


async def test_a_stated_timeout_and_a_bit_cuts_a_request_that_is_not_streamed_and_never_a_stream(
    tmp_path: Path,
) -> None:
    timeouts = "    timeouts: {header: x-request-timeout, request: 1s, buffer: 1.5}\n"
    async with front(tmp_path, one_pool(1, timeouts)) as running:
        server = running.servers[0]
        server.delay_s = 5.0
        stated = await running.ask(SHORT, x_request_timeout="0.4")
        assert stated.status == 504
        assert server.seen[-1]["x-envoy-expected-rq-timeout-ms"] == "600"
        by_policy = await running.ask(SHORT, x_request_timeout="soon")
        assert by_policy.status == 504
        assert server.seen[-1]["x-envoy-expected-rq-timeout-ms"] == "1500"
        server.delay_s, server.chunks, server.gap_s = 0.0, 12, 0.2
        stream = await running.ask({**SHORT, "stream": True}, x_request_timeout="0.4", x_gpuxds_stream="false")
        assert (stream.error, stream.text.count("data:")) == ("", 12)
        assert stream.seconds > 1.5
        assert all("x-request-timeout" in seen for seen in server.seen)


async def test_a_body_of_ten_megabytes_is_read_and_passes(tmp_path: Path) -> None:
    parts = "    retries: {attempts: 1}\n    timeouts: {request: 10s}\n"
    async with front(tmp_path, one_pool(1, parts)) as running:
        body = json.dumps({"prompt": "x" * 10_485_760}).encode()
        answer = await running.ask(body, content_type="application/json")
        assert answer.status == 200
        assert running.servers[0].bodies[0] > 10_485_760
        assert running.servers[0].seen[0]["x-envoy-expected-rq-timeout-ms"] == "12000"


async def test_the_example_of_slow_and_stuck_servers_runs(tmp_path: Path) -> None:
    example = load(asset("policies", "examples", "slow-and-stuck.yaml")).policy
    async with front(tmp_path, example) as running:
        bad = running.servers[0]
        bad.status = 500
        answers = [await running.ask(SHORT, x_request_timeout="10") for _ in range(12)]
        assert {answer.status for answer in answers} == {200}
        assert str(bad.port) not in {answer.text for answer in answers}
        assert {answer.headers["x-gpuxds-attempts"] for answer in answers} <= {"1", "2"}
        first = [seen for server in running.servers for seen in server.seen if seen["x-envoy-attempt-count"] == "1"]
        assert {seen["x-envoy-expected-rq-timeout-ms"] for seen in first} == {"12000"}
