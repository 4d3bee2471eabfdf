"""What Envoy tells of single requests: access logs, and reservations that one holder's requests alone reach."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gpuxds.cli.client import fetch
from support.stack import Stack, stack
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(120)]

FLEET = {"h100": "H100-80", "l40s": "L40S", "l4": "L4"}


async def served_by(running: Stack, headers: dict[str, str] | None = None, count: int = 20) -> set[str]:
    """Which servers answer these requests."""
    found = set()
    for _ in range(count):
        body = {"prompt": "hello", "max_tokens": 1}
        async with running.session.post(running.url, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert "x-gpuxds-reservation" not in response.headers
            found.add(response.headers["x-fake-gpu"])
    return found


async def test_access_logs_time_each_endpoint_as_clients_see_it(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, strategy="round_robin") as running, running.load(6.0):

        async def engines_only() -> bool:
            load = await running.api("/api/v1/loadbalancer/load?instance_id=l4")
            return load["last_used_s"] is not None

        await until(engines_only, 20, "load reports come")
        assert (await running.api("/api/admin/load-balancer"))["totals"]["retried"] is None
        running.write_policy(running.policy("round_robin", signals={"proxy": {"access_logs": True}}))

        async def timed() -> bool:
            explained = await running.api("/api/v1/explain?endpoint=l4")
            inputs = {found["name"]: found for found in explained["endpoints"][0]["inputs"]}
            return all(inputs[name]["freshness"] == "fresh" for name in ("proxy_latency_s", "proxy_ttfb_s"))

        await until(timed, 20, "access logs come")
        load = await running.api("/api/v1/loadbalancer/load?instance_id=l4")
        assert load["last_response_s"] > 0
        assert load["average_response_s"] > 0
        assert load["last_used_s"] < 10
        assert (await running.api("/api/admin/load-balancer"))["totals"]["retried"] == 0
        assert "rejected" not in running.log()


async def test_a_reserved_gpu_serves_whoever_carries_the_id_and_nobody_else(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, strategy="round_robin") as running:
        assert await served_by(running) == set(FLEET)
        made = await running.api("/api/v1/gpu/instances/reserve", {"count": 2, "filters": {"min_vram": 48}})
        assert set(made["endpoints"]) == {"h100", "l40s"}
        assert made["acknowledged"]
        holder = {made["header"]: made["reservation_id"]}
        assert await served_by(running) == {"l4"}
        assert await served_by(running, holder) == {"h100", "l40s"}
        assert await served_by(running, {made["header"]: "guess"}) == {"l4"}
        path = f"http://127.0.0.1:{running.admin_port}"
        await fetch(path, f"/api/v1/gpu/instances/reservations/{made['name']}", method="DELETE")

        async def everybody() -> bool:
            return await served_by(running) == set(FLEET)

        await until(everybody, 10, "the endpoints serve everybody again")
        assert await served_by(running, holder) == set(FLEET), "an ended reservation is no reason to refuse"


async def test_a_reservation_holds_while_the_control_plane_is_dead_and_when_it_is_back(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, strategy="round_robin") as running:
        made = await running.api("/api/v1/gpu/instances/reserve", {"count": 1, "filters": {"model": "H100"}})
        holder = {made["header"]: made["reservation_id"]}
        await running.processes.kill("control-plane")
        assert await served_by(running, holder) == {"h100"}
        assert await served_by(running) == {"l40s", "l4"}
        await running.start_control_plane()
        since = time.monotonic()
        while time.monotonic() - since < 3:
            assert await served_by(running, holder, 3) == {"h100"}
            assert "h100" not in await served_by(running, count=3)
