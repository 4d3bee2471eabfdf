"""Requests find another endpoint when theirs fails or hangs, within a budget; nothing that has begun is cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.snapshot.assemble import assemble
from gpuxds.snapshot.resources import config
from support.ads import Served, assignment, serving, snapshot_of
from support.stack import free_ports
from support.upstreams import Answer, Upstream, ask, upstreams
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(60)]


@dataclass(frozen=True)
class Front:
    """An Envoy with generated configuration before misbehaving servers."""

    servers: list[Upstream]
    url: str
    served: Served
    policy: Policy

    async def ask(self, body: bytes | dict[str, Any] = b"{}", **headers: str) -> Answer:
        """A request as a client sends it."""
        return await ask(self.served.session, self.url, body, **headers)

    @property
    def attempts(self) -> int:
        """Requests that reached a server, retries included."""
        return sum(len(server.seen) for server in self.servers)

    def numbers(self) -> list[str]:
        """The attempt each request said it was, in order."""
        return sorted(seen["x-envoy-attempt-count"] for server in self.servers for seen in server.seen)


def policy_for(servers: list[Upstream], port: int, parts: str) -> Policy:
    """One pool of the servers; `parts` are further lines of the pool."""
    text = (
        f"version: 1\nlistener: {{address: 127.0.0.1, port: {port}, access_log: false, response_headers: true}}\n"
        f"pools:\n  - name: p\n    strategy: round_robin\n    outlier_detection: {{consecutive_5xx: 0}}\n{parts}"
        "    endpoints:\n"
    )
    for server in servers:
        text += f"      - {{id: u{server.port}, address: '127.0.0.1:{server.port}', gpu: {{model: L4}}}}\n"
    return load_text(text, "test.yaml").policy


@asynccontextmanager
async def front(folder: Path, count: int, parts: str = "") -> AsyncIterator[Front]:
    """A running Envoy that was told this policy over ADS, and its servers."""
    port = free_ports(1)[0]
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(upstreams(count))
        policy = policy_for(servers, port, parts)
        served = await stack.enter_async_context(serving(folder, snapshot_of(policy)))
        await served.start_envoy()
        await served.settled()
        await until(lambda: listening(port), 10, "Envoy listens")
        yield Front(servers, f"http://127.0.0.1:{port}/v1/completions", served, policy)


async def listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_failing_server_is_tried_three_more_times_each_elsewhere_and_each_says_its_number(
    tmp_path: Path,
) -> None:
    async with front(tmp_path, 4) as running:
        for server in running.servers:
            server.status = 503
        answer = await running.ask(x_envoy_attempt_count="9", x_envoy_max_retries="9")
        assert answer.status == 503
        assert [len(server.seen) for server in running.servers] == [1, 1, 1, 1]
        assert running.numbers() == ["1", "2", "3", "4"], "what the client says of attempts does not count"
        assert answer.headers["x-gpuxds-attempts"] == "4"


async def test_the_answer_says_which_endpoint_served_at_which_attempt(tmp_path: Path) -> None:
    async with front(tmp_path, 3) as running:
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
    async with front(tmp_path, 2) as running:
        for server in running.servers:
            server.status = 500
        assert (await running.ask()).status == 500
        assert running.attempts == 1


async def test_a_large_request_is_tried_again_too(tmp_path: Path) -> None:
    async with front(tmp_path, 2) as running:
        running.servers[0].status = 503
        for _ in range(2):
            assert (await running.ask(b"x" * 10_485_760)).status == 200
        assert running.attempts == 3
        assert {size for server in running.servers for size in server.bodies} == {10_485_760}


async def test_requests_of_a_stuck_server_are_answered_by_another_and_none_is_lost(tmp_path: Path) -> None:
    async with front(tmp_path, 4, "    retries: {stuck_after: 400ms}\n") as running:
        stuck = running.servers[1]
        stuck.hang = True
        answers = await asyncio.gather(*(running.ask() for _ in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert {answer.headers["x-gpuxds-attempts"] for answer in answers} == {"1", "2"}
        assert len(stuck.seen) == 5
        await until(lambda: stuck.open == 0, 5, "what was given to the stuck server is cancelled")


async def test_a_slow_answer_is_not_cut_when_another_try_is_started_beside_it(tmp_path: Path) -> None:
    async with front(tmp_path, 2, "    retries: {stuck_after: 300ms}\n") as running:
        slow, stuck = running.servers
        slow.delay_s, stuck.hang = 1.0, True
        answers = [await running.ask() for _ in range(2)]
        assert {answer.text for answer in answers} == {str(slow.port)}
        slow.chunks, slow.gap_s, slow.delay_s = 4, 0.4, 0.0
        for stream in [await running.ask() for _ in range(2)]:
            assert (stream.text.count("data:"), stream.error) == (4, "")


async def test_no_request_is_lost_when_a_server_dies_with_requests_of_its_own(tmp_path: Path) -> None:
    async with front(tmp_path, 4) as running:
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
    async with front(tmp_path, 4, retries) as running:
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
    async with front(tmp_path, 1, "    timeouts: {idle: 600ms}\n") as running:
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
    async with front(tmp_path, 2, "    retries: {attempts: 0}\n") as running:
        for server in running.servers:
            server.status = 503
        assert (await running.ask()).status == 503
        (seen,) = [seen for server in running.servers for seen in server.seen]
        assert "x-envoy-attempt-count" not in seen


async def test_an_answer_of_envoys_own_names_no_endpoint(tmp_path: Path) -> None:
    async with front(tmp_path, 1) as running:
        running.served.publish(assemble(config(running.policy, None, {}), {"p": assignment("p", [])}))

        async def refused() -> Answer | None:
            answer = await running.ask()
            return answer if answer.status == 503 else None

        answer = await until(refused, 5, "nobody serves")
        assert "x-gpuxds-endpoint" not in answer.headers
