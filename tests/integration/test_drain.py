"""Draining under load: nothing new, nothing lost, and then the endpoint is gone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest

from gpuxds.errors import Refused
from support.stack import Stack, stack
from support.waiting import seconds_until, until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(150)]

FLEET = {"h100": "H100-80", "a100-80": "A100-80", "l40s": "L40S", "l4": "L4"}
L4_TOKENS_FOR_20_S = 330
"""An L4 makes one token in about 61 ms."""


async def long_stream_on(running: Stack, name: str) -> tuple[int, bytes]:
    """A stream of about 20 s through Envoy that lands on `name`; its status and last bytes."""
    body = json.dumps({"prompt": "hello", "max_tokens": L4_TOKENS_FOR_20_S, "stream": True})
    async with aiohttp.ClientSession() as session:
        for _ in range(2000):
            async with session.post(running.url, data=body) as response:
                if response.headers["x-fake-gpu"] == name:
                    return response.status, (await response.read())[-20:]
    raise AssertionError(f"no request ever went to {name}")


async def test_a_drain_under_load_sends_nothing_new_loses_nothing_and_ends_outside_eds(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, strategy="round_robin") as running, running.load(6.0) as load:
        began = time.monotonic()
        stream = asyncio.ensure_future(long_stream_on(running, "l4"))
        await until(lambda: on_it(running, "l4"), 20, "l4 has requests in flight")
        await asyncio.sleep(1)
        answer = await running.api("/api/v1/endpoints/l4/drain", {"reason": "maintenance"})
        assert answer["acknowledged"]
        assert answer["health"] == "draining"
        await asyncio.sleep(0.1)
        at_return = (await running.requests())["l4"]
        assert (await running.hosts())["l4"]["health"] == "DRAINING"

        async def left() -> bool:
            requests = await running.requests()
            assert requests.get("l4", at_return) == at_return, "a draining endpoint got a new request"
            return "l4" not in requests

        assert await seconds_until(left, 60, "l4 leaves EDS") > 1
        status, end = await stream
        assert status == 200
        assert b"[DONE]" in end
        assert time.monotonic() - began > 15, "the stream was not a long one"
        assert (await running.row("l4"))["health"] == "drained"
        assert load.window(0, time.monotonic()).failed == 0
        await running.api("/api/v1/endpoints/l4/undrain", {})
        await until(lambda: on_it(running, "l4"), 20, "l4 serves again")
        assert load.window(0, time.monotonic()).failed == 0


async def on_it(running: Stack, name: str) -> bool:
    hosts = await running.hosts()
    return name in hosts and hosts[name]["active"] > 0


async def test_a_drain_past_its_deadline_leaves_eds_although_requests_run(tmp_path: Path) -> None:
    async with stack(tmp_path, {"a100-80": "A100-80", "l4": "L4"}, strategy="round_robin") as running:
        stream = asyncio.ensure_future(long_stream_on(running, "l4"))
        await until(lambda: on_it(running, "l4"), 20, "l4 has requests in flight")
        await running.api("/api/v1/endpoints/l4/drain", {"deadline": "2s"})

        async def gone() -> bool:
            return "l4" not in await running.hosts()

        assert 1 < await seconds_until(gone, 6, "l4 leaves EDS at its deadline") < 5
        status, end = await stream
        assert status == 200
        assert b"[DONE]" in end


async def test_the_last_serving_endpoint_is_not_drained_without_force_and_then_everything_is_503(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, {"a": "A100-80", "b": "A100-80"}) as running:
        await running.api("/api/v1/endpoints/a/drain", {})
        with pytest.raises(Refused, match="last serving endpoint of llama"):
            await running.api("/api/v1/endpoints/b/drain", {})
        before = await running.requests()
        await running.api("/api/v1/endpoints/b/drain", {"force": True})
        await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session:
            for _ in range(20):
                async with session.post(running.url, json={"prompt": "hello", "max_tokens": 1}) as response:
                    assert response.status == 503
                    assert "no healthy upstream" in await response.text()
        after = await running.requests()
        assert sum(after.values()) <= sum(before.values())
