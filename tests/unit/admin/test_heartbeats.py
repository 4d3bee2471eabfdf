"""Heartbeats over the API, around a real engine whose servers are not there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gpuxds.engine import heartbeats
from gpuxds.engine.loop import Engine
from gpuxds.scoring.contract import Health
from gpuxds.signals.heartbeat import Heartbeat
from gpuxds.signals.model import Signal
from unit.admin.test_api import ENDPOINTS, admin

BEATING = {
    "pool": "p",
    "id": "h",
    "address": "127.0.0.1:9",
    "gpu": {"model": "H100-80"},
    "metrics": {"source": "heartbeat"},
}
BEAT: dict[str, Any] = {
    "running": 3,
    "waiting": 1,
    "capacity": 32,
    "kv_usage": 0.5,
    "gpus": [{"model": "NVIDIA H100", "temperature_c": 60, "xid": 0}],
    "succeeded": 90,
    "failed": 10,
    "mean_s": 2.5,
    "model": "llama-3-8b",
    "adapters": ["support"],
}


def health(engine: Engine, name: str) -> Health:
    """In the last decision."""
    return Health(int(engine.decisions["p"].health[engine.rows[name]]))


async def test_a_heartbeat_is_a_signal_like_any_other(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        assert (await client.post(ENDPOINTS, json=BEATING)).status == 201
        answer = await client.post(f"{ENDPOINTS}/h/heartbeat", json=BEAT)
        assert answer.status == 200
        assert (await answer.json())["lost_after_s"] == 60
        engine.decide()
        row = await (await client.get(f"{ENDPOINTS}/h")).json()
        assert (row["signals"]["running"], row["signals"]["waiting"], row["signals"]["kv_usage"]) == (3, 1, 0.5)
        assert (row["model"], row["adapters"]) == ("llama-3-8b", ["support"])
        load = await (await client.get("/api/v1/loadbalancer/load?instance_id=h")).json()
        assert (load["capacity"], load["average_response_s"], load["last_response_s"]) == (32, 2.5, 2.5)
        agents = (await (await client.get("/api/admin/load-balancer")).json())["agents"]
        (agent,) = [row for row in agents if row["agent"] == "h"]
        assert (agent["completed"], agent["failed"], agent["success_rate"]) == (90, 10, 0.9)
        assert (agent["current"], agent["max"], agent["load_percent"]) == (4, 32, 12.5)


async def test_nothing_is_fetched_from_an_endpoint_that_lives_by_heartbeats(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        await client.post(ENDPOINTS, json=BEATING)
        assert "h engine" not in engine.scraper.running
        assert "h port" in engine.scraper.running
        assert "a engine" in engine.scraper.running


async def test_what_a_heartbeat_does_not_say_is_not_known(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        await client.post(ENDPOINTS, json=BEATING)
        await client.post(f"{ENDPOINTS}/h/heartbeat", json={"waiting": None})
        engine.decide()
        row = await (await client.get(f"{ENDPOINTS}/h")).json()
        assert row["signals"]["running"] is None
        assert row["signals"]["waiting"] is None
        assert row["model"] is None


async def test_an_endpoint_silent_for_lost_after_is_out_and_ramped_in_when_it_is_back(tmp_path: Path) -> None:
    async with admin(tmp_path, run=False) as (_, engine):
        clock = [time.time()]
        engine.now = lambda: clock[0]
        follow_heartbeats(engine)
        beat(engine, "h", "i", "j")
        engine.ready = True
        engine.decide()
        assert health(engine, "h") is Health.SERVING
        for _ in range(6):
            clock[0] += 10
            beat(engine, "i", "j")
            engine.decide()
        assert health(engine, "h") is Health.SERVING, "60 s are not over yet"
        clock[0] += 1
        beat(engine, "i", "j")
        engine.decide()
        assert health(engine, "h") is Health.FAILED
        assert health(engine, "i") is Health.SERVING
        clock[0] += 1
        beat(engine, "h", "i", "j")
        engine.decide()
        assert health(engine, "h") is Health.SERVING
        ramp = next(term for term in engine.decisions["p"].terms if term.name == "ramp")
        assert ramp.values[engine.rows["h"]] < 0.1, "it is given its whole share at once"


async def test_when_all_heartbeats_stop_at_once_the_fault_is_ours_and_nobody_is_lost(tmp_path: Path) -> None:
    async with admin(tmp_path, run=False) as (_, engine):
        clock = [time.time()]
        engine.now = lambda: clock[0]
        follow_heartbeats(engine)
        beat(engine, "h", "i", "j")
        engine.ready = True
        engine.decide()
        for _ in range(20):
            clock[0] += 10
            engine.decide()
        assert {health(engine, name) for name in ("h", "i", "j")} == {Health.SERVING}
        assert engine.decisions["p"].frozen


async def test_after_a_restart_an_endpoint_has_lost_after_to_be_heard_again(tmp_path: Path) -> None:
    async with admin(tmp_path, run=False) as (_, engine):
        follow_heartbeats(engine)
        beat(engine, "h", "i", "j")
        engine.ready = True
        engine.decide()
        engine.save()
    async with admin(tmp_path, run=False) as (_, engine):
        clock = [time.time()]
        engine.now = lambda: clock[0]
        follow_heartbeats(engine)
        engine.ready = True
        for _ in range(6):
            beat(engine, "i", "j")
            engine.decide()
            assert health(engine, "h") is Health.SERVING
            clock[0] += 10
        clock[0] += 5
        beat(engine, "i", "j")
        engine.decide()
        assert health(engine, "h") is Health.FAILED


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"runing": 1}', "runing"),
        ('{"running": -1}', "running"),
        ('{"running": 1.5}', "running"),
        ('{"kv_usage": 50}', "kv_usage"),
        ('{"gpus": [{"temperature_c": "hot"}]}', "gpus.0.temperature_c"),
        ("[]", "body"),
    ],
)
async def test_a_wrong_heartbeat_is_refused_by_field_and_changes_nothing(
    tmp_path: Path, body: str, words: str
) -> None:
    async with admin(tmp_path) as (client, engine):
        await client.post(ENDPOINTS, json=BEATING)
        answer = await client.post(f"{ENDPOINTS}/h/heartbeat", data=body)
        assert answer.status == 422
        assert words in (await answer.json())["detail"]
        assert engine.store.at("h", Signal.HEARTBEAT) == float("-inf")


async def test_a_heartbeat_of_an_unknown_endpoint_is_404(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, _):
        answer = await client.post(f"{ENDPOINTS}/nobody/heartbeat", json=BEAT)
        assert answer.status == 404
        assert "known: a, b/2" in (await answer.json())["detail"]


HEARTBEAT_POLICY = """
version: 1
pools:
  - name: p
    endpoints:
      - {id: h, address: '127.0.0.1:1', gpu: {model: H100-80}, metrics: {source: heartbeat}}
      - {id: i, address: '127.0.0.1:2', gpu: {model: H100-80}, metrics: {source: heartbeat}}
      - {id: j, address: '127.0.0.1:3', gpu: {model: H100-80}, metrics: {source: heartbeat}}
"""


def follow_heartbeats(engine: Engine) -> None:
    """Put the policy in force; nobody asks any ports."""
    engine.settings.policy_path.write_text(HEARTBEAT_POLICY)
    with mock.patch.object(engine.scraper, "apply"):
        engine.reload()


def beat(engine: Engine, *names: str) -> None:
    """Heartbeats, without the HTTP around them."""
    for name in names:
        heartbeats.beat(engine, name, Heartbeat(running=1, waiting=0))


async def test_a_beat_that_says_nothing_of_the_engine_does_not_prove_that_it_lives(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        await client.post(ENDPOINTS, json=BEATING)
        await client.post(f"{ENDPOINTS}/h/heartbeat", json={"gpus": [{"temperature_c": 50}]})
        assert engine.store.at("h", Signal.ANSWERED) == float("-inf")
        await client.post(f"{ENDPOINTS}/h/heartbeat", json={"running": 0})
        assert engine.store.get("h", Signal.ANSWERED) == 1


async def test_an_endpoint_that_was_lost_stays_out_over_a_restart_until_it_is_heard(tmp_path: Path) -> None:
    async with admin(tmp_path, run=False) as (_, engine):
        clock = [time.time()]
        engine.now = lambda: clock[0]
        follow_heartbeats(engine)
        beat(engine, "h", "i", "j")
        engine.ready = True
        engine.decide()
        for _ in range(7):
            clock[0] += 10
            beat(engine, "i", "j")
            engine.decide()
        assert health(engine, "h") is Health.FAILED
        engine.save()
    async with admin(tmp_path, run=False) as (_, engine):
        engine.now = lambda: clock[0]
        follow_heartbeats(engine)
        engine.ready = True
        for _ in range(12):
            clock[0] += 10
            for name in ("h", "i", "j"):  # the ports answer, nobody beats
                engine.store.record(name, {Signal.ANSWERED: 1.0}, clock[0])
            engine.decide()
            assert health(engine, "h") is Health.FAILED
        beat(engine, "h")
        clock[0] += 1
        engine.decide()
        assert health(engine, "h") is Health.SERVING
