"""The admin API around a real engine whose servers are not there: status codes, words, metrics, drains."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from gpuxds.admin.app import build
from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.server import AdsServer
from gpuxds.engine.events import KEPT, EventLog
from gpuxds.engine.loop import Engine, Settings
from gpuxds.signals.model import Signal
from support.waiting import until

POLICY = """
version: 1
pools:
  - name: p
    endpoints:
      - {id: a, address: '127.0.0.1:1', gpu: {model: H100-80}}
      - {id: b/2, address: '127.0.0.1:2', gpu: {model: L4}}
"""


@asynccontextmanager
async def admin(
    folder: Path, *, token: str = "", run: bool = True
) -> AsyncIterator[tuple[TestClient[Any, Any], Engine]]:
    """A client of the API; the engine decides on signals that the test records."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    token_file = None
    if token:
        token_file = folder / "token"
        token_file.write_text(token)
    server = AdsServer("127.0.0.1:0", credentials=Credentials(), group_of=lambda _: "all", clock=time.time)
    engine = Engine(Settings(policy, folder / "state.json", 0.0), server, time.time)
    engine.load()
    await server.start()
    async with TestClient(TestServer(build(engine, token_file))) as client:
        if not run:
            yield client, engine
            await server.stop(0.0)
            return
        running = asyncio.ensure_future(engine.run())
        try:
            await until(lambda: bool(engine.decisions), 5, "a first decision")
            yield client, engine
        finally:
            engine.stop()
            await running
            await server.stop(0.0)


async def test_it_is_not_ready_before_the_first_decision(tmp_path: Path) -> None:
    async with admin(tmp_path, run=False) as (client, _):
        assert (await client.get("/healthz")).status == 200
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert "waiting for the first signals" in await answer.text()
        assert (await client.post(ENDPOINTS, json=NEW)).status == 503
        assert (await client.get(f"{ENDPOINTS}/a")).status == 503


async def test_metrics_are_a_page_prometheus_reads(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, _):
        answer = await client.get("/metrics")
        families = {family.name for family in text_string_to_metric_families(await answer.text())}
        assert {
            "gpuxds_policy_reload_failures", "gpuxds_policy_last_reload_success", "gpuxds_endpoint_weight",
            "gpuxds_endpoint_health", "gpuxds_pool_frozen", "gpuxds_proxies_connected", "gpuxds_xds_nacks",
        } <= families  # fmt: skip


async def test_endpoints_kept_against_judgement_are_counted_so_that_an_alert_can_name_the_cap(
    tmp_path: Path,
) -> None:
    async with admin(tmp_path) as (client, engine):
        for name in ("a", "b/2"):
            broken = {Signal.RUNNING: 1.0, Signal.ANSWERED: 1.0, Signal.ECC_FATAL: 1.0, Signal.PROBE_REFUSALS: 0.0}
            engine.store.record(name, broken, time.time())
        engine.decide()
        page = await (await client.get("/metrics")).text()
        assert 'gpuxds_pool_kept_endpoints{pool="p"} 1.0' in page


async def test_endpoints_have_health_weight_reason_and_ages(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        engine.store.record("a", {Signal.RUNNING: 3.0, Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}, time.time())
        engine.decide()
        answer = await (await client.get("/api/v1/endpoints")).json()
        row = next(row for row in answer["endpoints"] if row["id"] == "a")
        assert row["signals"]["running"] == 3
        assert 0 <= row["load_age_s"] < 5
        assert row["weight"] >= 1
        assert row["reason"]
        unknown = next(row for row in answer["endpoints"] if row["id"] == "b/2")
        assert unknown["signals"]["running"] is None, "absent is null, never 0"
        one = await client.get("/api/v1/endpoints/b%2F2")
        assert (await one.json())["id"] == "b/2"


async def test_what_is_not_there_is_a_problem_with_words(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, _):
        for path in ("/api/v1/endpoints/nobody", "/api/v1/explain?endpoint=nobody"):
            answer = await client.get(path)
            assert answer.status == 404
            assert answer.content_type == "application/problem+json"
            body = await answer.json()
            assert "known: a, b/2" in body["detail"]
        assert (await client.get("/api/v1/nothing")).content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"{", "JSON"), (b'{"deadline": "soon"}', "not a duration"), (b'{"dedline": "5s"}', "dedline")],
)
async def test_a_drain_that_is_wrong_is_refused_and_nothing_drains(tmp_path: Path, body: bytes, words: str) -> None:
    async with admin(tmp_path) as (client, engine):
        answer = await client.post("/api/v1/endpoints/a/drain", data=body)
        assert answer.status == 422
        assert words in (await answer.json())["detail"]
        assert not engine.drains.by_id


async def test_drain_and_undrain_and_the_last_one_is_refused(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        for name in ("a", "b/2"):
            engine.store.record(name, {Signal.RUNNING: 1.0, Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}, time.time())
            engine.store.record(name, {Signal.PROBE_REFUSALS: 0.0}, time.time())
        engine.decide()
        row = await (
            await client.post("/api/v1/endpoints/a/drain", json={"reason": "disk", "deadline": "1m"})
        ).json()
        assert row["health"] == "draining"
        assert row["drain"]["reason"] == "disk"
        assert row["reason"] == "drained by an operator: disk"
        told = await (await client.get("/api/v1/explain?endpoint=a")).json()
        assert told["endpoints"][0]["reason"] == row["reason"]
        refused = await client.post("/api/v1/endpoints/b%2F2/drain", json={})
        assert refused.status == 409
        assert "--force" in (await refused.json())["detail"]
        assert (await (await client.post("/api/v1/endpoints/a/undrain", json={})).json())["was_draining"] is True
        assert (await (await client.post("/api/v1/endpoints/a/undrain", json={})).json())["was_draining"] is False


async def test_with_a_token_everything_but_health_and_metrics_asks_for_it(tmp_path: Path) -> None:
    async with admin(tmp_path, token="secret\n") as (client, _):
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/api/v1/endpoints")).status == 401
        assert (await client.post("/api/v1/endpoints/a/drain", json={})).status == 401
        good = await client.get("/api/v1/endpoints", headers={"Authorization": "Bearer secret"})
        assert good.status == 200


async def test_what_the_decision_stood_on_can_be_taken_away_and_explained_elsewhere(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        engine.store.record("a", {Signal.RUNNING: 3.0, Signal.WAITING: 1.0}, time.time())
        engine.decide()
        recording = await (await client.get("/api/v1/signals")).json()
        assert recording["endpoints"]["a"]["running"]["value"] == 3
        assert "running" not in recording["endpoints"]["b/2"]
        policy = await (await client.get("/api/v1/policy")).json()
        assert policy["last_reload"]["ok"] is True


async def test_events_tell_what_happened_and_resume_where_a_reader_left_off(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):

        async def read(count: int, **options: Any) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            async with client.get("/api/v1/events", **options) as stream:
                async for raw in stream.content:
                    if raw.startswith(b"data: "):
                        found.append(json.loads(raw[6:]))
                    if len(found) == count:
                        return found
            raise AssertionError("the stream ended")

        first = await asyncio.wait_for(read(2, params={"after": "0"}), 5)
        assert [event["kind"] for event in first] == ["reload", "fleet"]
        assert first[1]["added"] == ["a", "b/2"]
        waiting = asyncio.ensure_future(read(1))
        await asyncio.sleep(0)
        seen = engine.events.next_id - 1
        engine.events.add("alarm", time.time(), pool="p", alarm="test")
        resumed = await asyncio.wait_for(read(1, headers={"Last-Event-ID": str(seen)}), 5)
        assert resumed[0]["alarm"] == "test"
        engine.events.add("alarm", time.time(), pool="p", alarm="again")
        await asyncio.wait_for(waiting, 5)
        assert (await client.get(f"/api/v1/events?after={'9' * 5000}")).status == 400
        refused = await client.get("/api/v1/events?after=yesterday")
        assert refused.status == 400
        assert "not an event id" in (await refused.json())["detail"]


def test_the_log_of_events_is_bounded_and_its_ids_grow() -> None:
    log = EventLog(next_id=5)
    for number in range(KEPT + 10):
        log.add("push", float(number))
    assert len(log.kept) == KEPT
    assert log.after(5 + KEPT + 8) == [log.kept[-1]]
    assert log.after(10**9) == []


PATH = "/api/v1/loadbalancer/strategy"


def strategy_of(engine: Engine) -> str:
    """The strategy in force."""
    return engine.policy.pools[0].strategy.name


async def test_a_strategy_set_at_run_time_holds_over_reloads_and_restarts_until_it_is_cleared(
    tmp_path: Path,
) -> None:
    async with admin(tmp_path) as (client, engine):
        for name in ("a", "b/2"):
            engine.store.record(name, {Signal.RUNNING: 1.0, Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}, time.time())
        before = (await (await client.get(PATH)).json())["pools"]
        assert before == [{"pool": "p", "strategy": before[0]["strategy"], "source": "policy"}]
        assert before[0]["strategy"]["name"] == "gpu_aware"
        body = {"strategy": {"name": "least_load", "others_weight": 0.25}, "pool": "p"}
        after = (await (await client.put(PATH, json=body)).json())["pools"]
        assert after[0]["source"] == "override"
        assert after[0]["strategy"]["others_weight"] == 0.25
        assert engine.decisions["p"].strategy == "least_load"
        (tmp_path / "policy.yaml").write_text(POLICY + "weights: {dead_band: 0.3}\n")
        await until(lambda: engine.policy.weights.dead_band == 0.3, 5, "the reload is in force")
        assert strategy_of(engine) == "least_load"
        told = await (await client.get("/api/v1/explain")).json()
        assert told["pools"][0]["strategy_source"] == "override"
    async with admin(tmp_path) as (client, engine):
        assert strategy_of(engine) == "least_load", "a restart forgot the override"
        await client.put(PATH, json={"strategy": None})
        assert strategy_of(engine) == "gpu_aware"
        assert (await (await client.get(PATH)).json())["pools"][0]["source"] == "policy"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"strategy": "fastest"}, 422, "gpu_aware"),
        ({"strategy": {"name": "least_load", "other": 1}}, 422, "other"),
        ({"strategy": "full_scan", "pool": "q"}, 404, "pools: p"),
        ({"strategy": {"name": "consistent_hash", "header": None}}, 422, "no key to hash"),
        ({}, 422, "strategy"),
    ],
)
async def test_a_strategy_that_cannot_be_is_refused_and_nothing_changes(
    tmp_path: Path, body: dict[str, Any], status: int, words: str
) -> None:
    async with admin(tmp_path) as (client, engine):
        refused = await client.put(PATH, json=body)
        assert refused.status == status
        assert words in (await refused.json())["detail"]
        assert engine.overrides == {}


NEW = {"pool": "p", "id": "new", "address": "127.0.0.1:3", "gpu": {"model": "L40S"}, "labels": {"zone": "z1"}}
ENDPOINTS = "/api/v1/endpoints"


async def test_a_registered_endpoint_joins_survives_a_restart_and_leaves_when_drained(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        answer = await client.post(ENDPOINTS, json=NEW)
        assert answer.status == 201
        row = await answer.json()
        assert (row["source"], row["gpu"]["memory_gb"], row["labels"]) == ("api", 48, {"zone": "z1"})
        changed = await client.put(f"{ENDPOINTS}/new", json=NEW | {"capacity": 7})
        assert (await changed.json())["capacity"] == 7
        assert engine.fleet.by_id["new"].capacity == 7
    async with admin(tmp_path) as (client, engine):
        assert engine.fleet.by_id["new"].capacity == 7, "a restart forgot the registration"
        for name in ("a", "b/2", "new"):
            alive = {Signal.PROBE_REFUSALS: 0.0, Signal.ANSWERED: 1.0, Signal.RUNNING: 1.0, Signal.WAITING: 0.0}
            engine.store.record(name, alive, time.time())
        engine.decide()
        assert await (await client.delete(f"{ENDPOINTS}/new")).json() == {"id": "new", "gone": False}
        assert (await (await client.get(f"{ENDPOINTS}/new")).json())["health"] == "draining"
        engine.store.record("new", {Signal.RUNNING: 0.0, Signal.WAITING: 0.0}, time.time() + 0.01)
        await until(lambda: "new" not in engine.fleet.by_id, 5, "it is gone once drained")
        assert (await client.get(f"{ENDPOINTS}/new")).status == 404
        assert (await client.post(ENDPOINTS, json=NEW)).status == 201
        assert "new" not in engine.drains.by_id, "a new registration inherited a drain"
        assert (await (await client.delete(f"{ENDPOINTS}/new?force=true")).json())["gone"] is True


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"id": "a"}, 409, "there is an endpoint 'a' already"),
        ({"address": "127.0.0.1:1"}, 409, "is the address of a in pool p already"),
        ({"pool": "q"}, 404, "no pool 'q'; pools: p"),
        ({"address": "nowhere"}, 422, "write host:port"),
        ({"gpu": {"model": "B300"}}, 422, "give memory_gb and capacity"),
        ({"capacity": 0}, 422, "capacity"),
        ({"colour": "red"}, 422, "colour"),
        ({"id": "../x y?"}, 422, "id"),
        ({"metrics": {"engine": "foo"}}, 422, "metrics.engine: 'foo' is not a URL"),
        ({"gpu": {"model": "L4", "memory_gb": 1.0}}, 422, "contradicts model 'L4'"),
    ],
)
async def test_a_registration_that_cannot_be_is_refused_in_words(
    tmp_path: Path, change: dict[str, Any], status: int, words: str
) -> None:
    async with admin(tmp_path) as (client, engine):
        refused = await client.post(ENDPOINTS, json=NEW | change)
        assert refused.status == status
        assert words in (await refused.json())["detail"]
        assert set(engine.fleet.by_id) == {"a", "b/2"}


async def test_what_the_policy_declares_is_changed_in_the_policy(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, _):
        for refused in (
            await client.delete(f"{ENDPOINTS}/a"),
            await client.put(f"{ENDPOINTS}/a", json=NEW | {"id": "a"}),
        ):
            assert refused.status == 409
            assert "declared in policy" in (await refused.json())["detail"]
        assert (await client.delete(f"{ENDPOINTS}/nobody")).status == 404


async def test_an_edit_that_cannot_be_put_in_force_is_taken_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with admin(tmp_path) as (client, engine):
        before = engine.policy, engine.fleet, engine.facts

        def broken(*_: Any) -> None:
            raise RuntimeError("defect")

        monkeypatch.setattr(type(engine.publisher), "configure", broken)
        (tmp_path / "policy.yaml").write_text(POLICY + "weights: {dead_band: 0.3}\n")
        await until(lambda: engine.holder.failures == 1, 5, "the edit is refused")
        assert (engine.policy, engine.fleet, engine.facts) == before
        answer = await (await client.get("/api/v1/policy")).json()
        assert answer["last_reload"]["ok"] is False
        assert answer["policy"]["weights"]["dead_band"] == 0.2
        metrics = await (await client.get("/metrics")).text()
        assert "gpuxds_policy_last_reload_success 0.0" in metrics
        assert 'gpuxds_defects_total{where="reload"} 1.0' in metrics


async def test_a_registration_whose_model_the_policy_forgot_waits_and_stops_nobody(tmp_path: Path) -> None:
    known = "gpu_models: {X1: {memory_gb: 99, step_s: 0.01, step_per_sequence_s: 0.001, prefill_tokens_per_s: 9000, kv_tokens: 90000}}\n"
    async with admin(tmp_path) as (client, engine):
        (tmp_path / "policy.yaml").write_text(POLICY + known)
        await until(lambda: "X1" in engine.policy.gpu_models, 5, "the model is known")
        assert (await client.post(ENDPOINTS, json=NEW | {"gpu": {"model": "X1"}})).status == 201
        (tmp_path / "policy.yaml").write_text(POLICY)
        await until(lambda: not engine.policy.gpu_models, 5, "the edit is in force")
        assert "new" not in engine.fleet.by_id
    async with admin(tmp_path) as (client, engine):
        assert "new" not in engine.fleet.by_id
        assert (await (await client.delete(f"{ENDPOINTS}/new")).json())["gone"] is True
        assert (await client.delete(f"{ENDPOINTS}/new")).status == 404


async def test_an_undrain_also_takes_a_removal_back(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        await client.post(ENDPOINTS, json=NEW)
        for name in ("a", "b/2", "new"):
            alive = {Signal.PROBE_REFUSALS: 0.0, Signal.ANSWERED: 1.0, Signal.RUNNING: 1.0, Signal.WAITING: 0.0}
            engine.store.record(name, alive, time.time())
        engine.decide()
        await client.delete(f"{ENDPOINTS}/new")
        await client.post(f"{ENDPOINTS}/new/undrain")
        assert engine.registry.leaving == set()
        assert "new" in engine.fleet.by_id
