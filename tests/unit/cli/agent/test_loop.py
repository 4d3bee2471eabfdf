"""An agent against a server, an engine and GPUs that the test makes up, and whose failures it chooses."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from gpuxds.cli.agent.engine import EnginePage
from gpuxds.cli.agent.loop import LONGEST_PAUSE_S, Agent, pause_s
from gpuxds.cli.agent.registration import Registration
from gpuxds.cli.agent.watch import GpuWatch
from gpuxds.errors import SignalError
from gpuxds.signals.heartbeat import GpuBeat
from gpuxds.signals.presets.vllm import VLLM
from support.agents import FakeServer, serving
from support.pages import vllm_page
from support.waiting import until

WANTED = Registration("gpu/1", "chat", "10.0.0.11:8000", "H100-80", 1, None)


class FakeGpus:
    """GPUs that answer, fail or hang as they are told."""

    def __init__(self) -> None:
        self.why_not = ""
        self.broken = False
        self.free = threading.Event()
        self.free.set()
        self.readings = 0

    def read(self) -> tuple[GpuBeat, ...]:
        self.readings += 1
        self.free.wait()
        if self.why_not:
            raise SignalError(self.why_not)
        if self.broken:
            raise ZeroDivisionError("a defect")
        return (GpuBeat(model="NVIDIA L4", temperature_c=50.0),)


def agent_of(fake: FakeServer, gpus: FakeGpus, registration: Registration | None = None) -> Agent:
    """An agent in a hurry, whose clock moves by a second at each look."""
    return Agent(
        endpoint="gpu/1",
        admin=fake.url,
        interval_s=0.01,
        engine=EnginePage(f"{fake.url}/metrics", VLLM),
        gpus=GpuWatch(gpus, timeout_s=0.05),
        capacity=96,
        registration=registration,
        clock=itertools.count(1.0).__next__,
        rng=random.Random(1),
    )


@asynccontextmanager
async def beating(agent: Agent) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as client:
        running = asyncio.ensure_future(agent.run(client))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])


def told(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_a_heartbeat_says_what_engine_and_gpus_say() -> None:
    async with serving() as fake, beating(agent_of(fake, FakeGpus())):
        await until(lambda: fake.beats, 5, "a heartbeat")
        beat = fake.beats[0]
        (gpu,) = beat["gpus"]
        assert {name: value for name, value in gpu.items() if value is not None} == {
            "model": "NVIDIA L4",
            "temperature_c": 50.0,
        }
        assert "xid" in gpu, "what is not known is null"
        assert beat["model"] == 'meta/"llama" \\ 8B'
        assert beat["capacity"] == 96
        assert isinstance(beat["running"], int)
        assert isinstance(beat["waiting"], int)
        assert 0 <= beat["kv_usage"] <= 1
        assert beat["succeeded"] > 0
        assert beat["failed"] > 0
        assert beat["mean_s"] is None, "a mean needs two pages"
        assert beat["adapters"] is None


async def test_the_mean_is_that_of_requests_that_ended_since_the_last_heartbeat() -> None:
    name = "vllm:e2e_request_latency_seconds"

    def page(total_s: float, count: int) -> bytes:
        return f"vllm:num_requests_running 1\n{name}_sum {total_s}\n{name}_count {count}\n".encode()

    async with serving() as fake:
        agent = agent_of(fake, FakeGpus())
        async with aiohttp.ClientSession() as client:
            means = []
            for total_s, count in ((100.0, 10), (104.0, 12), (104.5, 13)):
                fake.page = page(total_s, count)
                means.append((await agent.heartbeat(client))["mean_s"])
        assert means == [None, 2.0, 0.5]


@pytest.mark.parametrize(
    ("part", "event"), [("gpus", "gpus.away"), ("engine", "engine.away")], ids=["no GPU", "no engine"]
)
async def test_a_part_that_is_away_is_told_once_and_the_rest_is_still_reported(part: str, event: str) -> None:
    gpus = FakeGpus()
    async with serving() as fake:
        agent = agent_of(fake, gpus)
        gpus.why_not = "no NVIDIA driver on this host" if part == "gpus" else ""
        fake.page = None if part == "engine" else fake.page
        with capture_logs() as logs:
            async with beating(agent):
                await until(lambda: len(fake.beats) > 4, 5, "heartbeats")
                assert len(told(logs, event)) == 1
                beat = fake.beats[-1]
                assert (beat["gpus"] is None) == (part == "gpus")
                assert (beat["running"] is None) == (part == "engine")
                gpus.why_not, fake.page = "", vllm_page()
                await until(lambda: told(logs, event.replace("away", "back")), 5, "it is back")


async def test_a_defect_in_reading_the_gpus_costs_the_gpus_only() -> None:
    gpus = FakeGpus()
    gpus.broken = True
    with capture_logs() as logs:
        async with serving() as fake, beating(agent_of(fake, gpus)):
            await until(lambda: len(fake.beats) > 2, 5, "heartbeats")
    assert [entry["error"] for entry in told(logs, "gpus.away")] == ["ZeroDivisionError: a defect"]


async def test_a_page_that_says_what_cannot_be_is_not_passed_on() -> None:
    with capture_logs() as logs:
        async with serving() as fake, beating(agent_of(fake, FakeGpus())):
            fake.page = b"vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 87\n"
            await until(lambda: told(logs, "engine.away"), 5, "it says so")
    assert "kv_usage 87" in told(logs, "engine.away")[0]["error"]


async def test_gpus_that_hang_hold_nobody_up_and_are_not_asked_again_meanwhile() -> None:
    gpus = FakeGpus()
    gpus.free.clear()
    with capture_logs() as logs:
        async with serving() as fake, beating(agent_of(fake, gpus)):
            await until(lambda: len(fake.beats) > 2, 5, "heartbeats")
            assert fake.beats[-1]["gpus"] is None
            assert fake.beats[-1]["running"] is not None
            assert gpus.readings == 1
            assert "a GPU may hang" in told(logs, "gpus.away")[0]["error"]
            gpus.free.set()
            await until(lambda: fake.beats[-1]["gpus"], 5, "GPUs again")


async def test_a_server_that_refuses_is_told_once_and_once_more_when_it_takes_heartbeats_again() -> None:
    async with serving() as fake:
        agent = agent_of(fake, FakeGpus())
        with capture_logs() as logs:
            async with beating(agent):
                await until(lambda: fake.beats, 5, "a heartbeat")
                fake.refusal = (503, "waiting for the first signals")
                seen = len(fake.keys)
                await until(lambda: len(fake.keys) > seen + 3, 5, "tries")
                assert len(told(logs, "server.refused")) == 1
                fake.refusal = None
                await until(lambda: told(logs, "server.back"), 5, "it is back")


async def test_no_server_at_all_ends_nothing() -> None:
    async with serving() as fake:
        pass
    with capture_logs() as logs:
        async with beating(agent_of(fake, FakeGpus())):
            await until(lambda: told(logs, "server.away"), 5, "it says so")
    assert "no gpuxds server answers" in told(logs, "server.away")[0]["error"]


async def test_it_registers_first_and_again_when_the_server_forgot_it() -> None:
    async with serving() as fake, beating(agent_of(fake, FakeGpus(), WANTED)):
        await until(lambda: fake.beats, 5, "a heartbeat")
        assert fake.registrations == [
            {
                "id": "gpu/1", "pool": "chat", "address": "10.0.0.11:8000", "gpu": {"model": "H100-80", "count": 1},
                "metrics": {"source": "heartbeat"},
            }
        ]  # fmt: skip
        fake.known.clear()
        fake.refusal = (404, "no endpoint 'gpu/1'")
        await until(lambda: len(fake.registrations) == 2, 5, "another registration")


async def test_a_registration_that_says_the_same_is_fine() -> None:
    async with serving() as fake:
        fake.known["gpu/1"] = {"capacity": 256, **WANTED.body()}
        async with beating(agent_of(fake, FakeGpus(), WANTED)):
            await until(lambda: fake.beats, 5, "a heartbeat")


async def test_a_registration_that_says_something_else_is_refused_with_every_difference() -> None:
    async with serving() as fake:
        fake.known["gpu/1"] = {"capacity": 256, **WANTED.body(), "pool": "code", "address": "10.0.0.12:8000"}
        with capture_logs() as logs:
            async with beating(agent_of(fake, FakeGpus(), WANTED)):
                await until(lambda: told(logs, "server.refused"), 5, "a refusal")
        assert not fake.beats
        error = told(logs, "server.refused")[0]["error"]
        assert "pool 'code' there, 'chat' here" in error
        assert "'10.0.0.12:8000' there" in error


async def test_an_interval_near_the_servers_patience_is_warned_of() -> None:
    async with serving() as fake:
        agent = agent_of(fake, FakeGpus())
        agent.interval_s = 31.0
        with capture_logs() as logs:
            async with beating(agent):
                await until(lambda: told(logs, "interval.too_long"), 5, "a warning")


def test_pauses_grow_while_the_server_is_away_and_never_beat_in_step() -> None:
    rng = random.Random(1)
    regular = [pause_s(5.0, 0, rng) for _ in range(50)]
    assert all(4.5 <= pause <= 5.5 for pause in regular)
    assert len(set(regular)) == 50
    for failures, longest_s in ((1, 5.0), (2, 10.0), (3, 20.0), (4, LONGEST_PAUSE_S), (10_000, LONGEST_PAUSE_S)):
        pauses = [pause_s(5.0, failures, rng) for _ in range(50)]
        assert longest_s / 2 <= min(pauses)
        assert max(pauses) <= longest_s
    assert pause_s(120.0, 3, rng) >= 60.0, "never more often than the interval allows"
