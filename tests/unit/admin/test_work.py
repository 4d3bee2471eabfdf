"""Who does how much, over the API."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gpuxds.signals.model import Signal
from unit.admin.test_api import admin


async def test_loads_are_what_proxies_and_engines_count_and_totals_add_up(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        now = time.time()
        engine.store.record("a", {Signal.RUNNING: 6.0, Signal.WAITING: 2.0, Signal.ANSWERED: 1.0}, now)
        engine.store.record(
            "a",
            {
                Signal.PROXY_ACTIVE: 7.0,
                Signal.PROXY_ISSUED: 100.0,
                Signal.PROXY_OK: 97.0,
                Signal.PROXY_ERRORS: 3.0,
            },
            now,
        )
        engine.decide()
        (row,) = (await (await client.get("/api/v1/loadbalancer/loads?instance_id=a")).json())["instances"]
        assert (row["active"], row["total"], row["failed"], row["running"]) == (7, 100, 3, 6)
        answer = await (await client.get("/api/admin/load-balancer")).json()
        assert answer["totals"]["load"] == 8
        assert answer["totals"]["agents"] == 2
        assert answer["totals"]["utilisation_percent"] == pytest.approx(100 * 8 / answer["totals"]["capacity"])
        assert (answer["totals"]["assigned"], answer["totals"]["failed"]) == (100, 3)
        assert answer["totals"]["retried"] is None, "nobody tells, which is not 0"
        agents = {row["agent"]: row for row in answer["agents"]}
        assert (agents["a"]["current"], agents["a"]["completed"], agents["a"]["success_rate"]) == (8, 97, 0.97)
        assert agents["b/2"]["current"] is None
        one = await (await client.get("/api/v1/loadbalancer/load?instance_id=a")).json()
        assert one == row
        assert row["last_used_s"] is None
        assert (await client.get("/api/v1/loadbalancer/load")).status == 400
        assert (await client.get("/api/v1/loadbalancer/loads?instance_id=x")).status == 404


async def test_counts_of_proxies_do_not_vanish_with_time_and_totals_are_the_sum_of_their_parts(
    tmp_path: Path,
) -> None:
    async with admin(tmp_path) as (client, engine):
        long_ago = time.time() - 3600
        counts = {
            Signal.PROXY_ISSUED: 100.0,
            Signal.PROXY_OK: 97.0,
            Signal.PROXY_ERRORS: 3.0,
            Signal.PROXY_ACTIVE: 0.0,
        }
        engine.store.record("a", counts, long_ago)
        engine.store.record("b/2", {Signal.REQUESTS_TOTAL: 50.0, Signal.FAILURES_TOTAL: 5.0}, long_ago)
        engine.decide()
        answer = await (await client.get("/api/admin/load-balancer")).json()
        assert (answer["totals"]["assigned"], answer["totals"]["completed"], answer["totals"]["failed"]) == (
            100,
            142,
            8,
        )
        assert answer["totals"]["completed"] == sum(agent["completed"] for agent in answer["agents"])
        load = await (await client.get("/api/v1/loadbalancer/load?instance_id=a")).json()
        assert (load["active"], load["total"], load["failed"]) == (0, 100, 3)
        assert load["last_report_s"] > 3000
