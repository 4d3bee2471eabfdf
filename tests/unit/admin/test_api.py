"""The admin API around a real engine whose servers are not there: status codes, words, metrics, drains."""

from __future__ import annotations

import asyncio
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
