"""Reservations over the API, around a real engine whose servers are not there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from pydantic import TypeAdapter

from gpuxds.admin import reserving
from gpuxds.engine.loop import Engine
from gpuxds.signals.model import Signal
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, ROUTES
from support.waiting import until
from unit.admin.test_api import admin

RESERVE = "/api/v1/gpu/instances/reserve"
RESERVATIONS = "/api/v1/gpu/instances/reservations"


def serve(engine: Engine) -> None:
    """Both endpoints answer, and their loads are known."""
    for name in engine.fleet.by_id:
        alive = {Signal.PROBE_REFUSALS: 0.0, Signal.ANSWERED: 1.0, Signal.RUNNING: 0.0, Signal.WAITING: 0.0}
        engine.store.record(name, alive | {Signal.SCRAPE_FAILURES: 0.0}, time.time())
    engine.decide()
    assert not [name for name in engine.fleet.by_id if engine.decisions["p"].health[engine.rows[name]] != 1]


async def reserved(client: TestClient[Any, Any], **body: Any) -> dict[str, Any]:
    """A reservation that was made."""
    answer = await client.post(RESERVE, json=body)
    text = await answer.text()
    assert answer.status == 201, text
    TypeAdapter(reserving.Reserved).validate_json(text, strict=True)
    found: dict[str, Any] = json.loads(text)
    return found


async def test_a_reserved_endpoint_leaves_the_shared_cluster_for_one_of_its_own(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1, filters={"min_vram": 80}, ttl="30m", note="benchmark")
        assert (found["endpoints"], found["requested"], found["reserved"]) == (["a"], 1, 1)
        assert found["header"] == "x-gpuxds-reservation"
        snapshot = engine.server.snapshots["all"]
        own = f"p/{found['name']}"
        assert own in snapshot.of(CLUSTER).resources
        assert found["reservation_id"].encode() in snapshot.of(ROUTES).resources["gpuxds"].any_bytes
        shared, ours = (snapshot.of(ENDPOINTS).resources[name].any_bytes for name in ("p", own))
        assert shared.count(b"127.0.0.1") == ours.count(b"127.0.0.1") == 1
        row = await (await client.get("/api/v1/endpoints/a")).json()
        assert row["reservation"]["name"] == found["name"]
        assert row["in_eds"]
        assert row["reason"].startswith(f"reserved as {found['name']} (benchmark)")
        (explained,) = (await (await client.get("/api/v1/explain?endpoint=a")).json())["endpoints"]
        assert explained["cluster"] == own


async def test_the_id_is_told_once_and_in_no_list_event_or_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1)
        secret = found["reservation_id"]
        assert len(secret) >= 32
        for path in (RESERVATIONS, "/api/v1/endpoints", "/api/v1/explain", "/api/v1/policy", "/metrics"):
            assert secret not in await (await client.get(path)).text(), path
        assert secret not in repr(list(engine.events.kept))
        told = await (await client.get(f"{RESERVATIONS}/{secret}x")).text()
        assert secret not in told.replace(f"{secret}x", "")
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0, "others may read the ids"


async def test_fewer_than_asked_for_come_with_the_reason_for_each_that_did_not(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=2, filters={"model": "h100"})
        assert found["endpoints"] == ["a"]
        assert found["reasons"] == ["b/2 is a L4, not h100"]


async def test_the_floor_holds_and_nothing_to_be_had_is_503_with_the_reasons(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=2)
        assert len(found["endpoints"]) == 1
        assert "keeps 1 of its 2 serving endpoints for everybody" in found["reasons"][0]
        answer = await client.post(RESERVE, json={"count": 1})
        assert answer.status == 503
        assert "floor" in (await answer.json())["detail"]


async def test_a_released_reservation_gives_its_endpoints_back(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1)
        (listed,) = (await (await client.get(RESERVATIONS)).json())["reservations"]
        assert (listed["name"], listed["endpoints"]) == (found["name"], found["endpoints"])
        assert (await client.delete(f"{RESERVATIONS}/{found['reservation_id']}")).status == 200
        assert not engine.parts
        assert engine.decisions["p"].in_eds.all()
        gone = await client.delete(f"{RESERVATIONS}/{found['name']}")
        assert gone.status == 404
        assert "in force: none" in (await gone.json())["detail"]


async def test_a_reservation_is_extended_and_ends_by_itself(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1, ttl="1h")
        longer = await (await client.post(f"{RESERVATIONS}/{found['name']}/extend", json={"ttl": "2h"})).json()
        assert longer["expires_at"] > found["expires_at"] + 3000
        await client.post(f"{RESERVATIONS}/{found['name']}/extend", json={"ttl": "100ms"})
        await until(lambda: not engine.reservations.by_id, 5, "it has run out")
        await until(lambda: bool(engine.decisions["p"].in_eds.all()), 5, "its endpoint serves everybody")
        assert [event.kind for event in engine.events.kept if event.kind in ("reserve", "expire")] == [
            "reserve",
            "expire",
        ]


async def test_a_reservation_survives_a_restart(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1, filters={"min_vram": 80})
    async with admin(tmp_path) as (client, engine):
        assert [held.id for held in engine.reservations.by_id.values()] == [found["reservation_id"]]
        assert f"p/{found['name']}" in engine.parts


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"count": 17}, 422, "count"),
        ({"count": 0}, 422, "count"),
        ({"count": 1, "pool": "x"}, 404, "pools: p"),
        ({"count": 1, "ttl": "48h"}, 422, "up to 24h"),
        ({"count": 1, "ttl": 60}, 422, "ttl"),
        ({"count": 1, "filters": {"vram": 1}}, 422, "filters.vram"),
        ({"count": 1, "filters": {"provider": "aws"}}, 503, "b/2 has provider unknown, not aws"),
    ],
)
async def test_what_cannot_be_reserved_is_refused_with_a_sentence_that_helps(
    tmp_path: Path, body: dict[str, Any], status: int, words: str
) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        answer = await client.post(RESERVE, json=body)
        assert answer.status == status
        assert words in (await answer.json())["detail"]
        assert not engine.reservations.by_id


async def test_metrics_count_what_is_reserved_and_have_the_slices_weights(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1, filters={"min_vram": 80})
        page = await (await client.get("/metrics")).text()
        assert 'gpuxds_pool_reserved_endpoints{pool="p"} 1.0' in page
        assert f'gpuxds_endpoint_weight{{endpoint="a",pool="p/{found["name"]}"}}' in page
        assert page.count('gpuxds_endpoint_health{endpoint="a"') == 1


async def test_a_reservation_is_of_its_pool_and_frees_an_endpoint_that_left_it(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        found = await reserved(client, count=1, filters={"min_vram": 80})
        text = engine.settings.policy_path.read_text()
        engine.settings.policy_path.write_text(text.replace("name: p", "name: q"))
        await until(lambda: "q" in engine.decisions, 5, "the pool has another name")
        serve_pool(engine, "q")
        assert engine.decisions["q"].in_eds.all(), "the endpoint serves nobody"
        refused = await client.post(f"{RESERVATIONS}/{found['name']}/extend", json={})
        assert refused.status == 409
        assert "no pool 'p' any more" in (await refused.json())["detail"]


async def test_another_name_of_a_reserved_server_is_no_way_around(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        alias = {"pool": "p", "id": "alias", "address": "localhost:1", "gpu": {"model": "H100-80"}}
        assert (await client.post("/api/v1/endpoints", json=alias)).status == 201
        await until(lambda: engine.fleet.by_id["alias"].ip == "127.0.0.1", 10, "its name is looked up")
        serve(engine)
        await reserved(client, count=1, filters={"min_vram": 80})
        ids = engine.decisions["p"].ids
        assert [name for name, kept in zip(ids, engine.decisions["p"].in_eds, strict=True) if kept] == ["b/2"]


async def test_a_reserved_endpoint_counts_as_healthy_and_its_last_one_is_not_drained(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        serve(engine)
        await reserved(client, count=1, filters={"min_vram": 80})
        load = await (await client.get("/api/v1/loadbalancer/load?instance_id=a")).json()
        assert load["healthy"] is True
        assert (await (await client.get("/api/admin/load-balancer")).json())["totals"]["healthy"] == 2
        refused = await client.post("/api/v1/endpoints/a/drain", json={})
        assert refused.status == 409
        assert "last serving endpoint of p/r-" in (await refused.json())["detail"]


async def test_a_long_list_of_reasons_is_cut(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        rows = "".join(
            f"      - {{id: x{n}, address: '127.0.0.1:{n + 100}', gpu: {{model: L4}}}}\n" for n in range(60)
        )
        engine.settings.policy_path.write_text(f"version: 1\npools:\n  - name: p\n    endpoints:\n{rows}")
        await until(lambda: len(engine.fleet.endpoints) == 60, 5, "the fleet is there")
        engine.decide()
        answer = await client.post(RESERVE, json={"count": 16, "filters": {"min_vram": 80}})
        assert "40 more do not fit" in (await answer.json())["detail"]


def serve_pool(engine: Engine, pool: str) -> None:
    """Its endpoints answer."""
    for endpoint in engine.fleet.pool(pool):
        alive = {Signal.PROBE_REFUSALS: 0.0, Signal.ANSWERED: 1.0, Signal.RUNNING: 0.0, Signal.WAITING: 0.0}
        engine.store.record(endpoint.id, alive | {Signal.SCRAPE_FAILURES: 0.0}, time.time())
    engine.decide()
