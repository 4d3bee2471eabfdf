"""The agent and the real admin API around a real engine: what it registers and says is what the server knows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
from aiohttp import web

from gpuxds.cli.agent.engine import EnginePage
from gpuxds.cli.agent.loop import Agent
from gpuxds.cli.agent.registration import Registration
from gpuxds.cli.agent.watch import GpuWatch
from gpuxds.signals.heartbeat import GpuBeat
from gpuxds.signals.presets.vllm import VLLM
from support.pages import vllm_page
from support.waiting import until
from unit.admin.test_api import ENDPOINTS, admin


class FakeGpus:
    """One L4, whose last XID the test chooses."""

    xid = 0

    def read(self) -> tuple[GpuBeat, ...]:
        return (GpuBeat(model="NVIDIA L4", temperature_c=50.0, xid=self.xid),)


async def test_an_agent_brings_its_endpoint_into_service_and_tells_when_its_gpu_fails(tmp_path: Path) -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=vllm_page())

    page = web.Application()
    page.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(page, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gpus = FakeGpus()
    async with admin(tmp_path) as (client, _), aiohttp.ClientSession() as session:
        agent = Agent(
            endpoint="gpu/7",
            admin=str(client.make_url("")),
            interval_s=0.1,
            engine=EnginePage(f"http://127.0.0.1:{runner.addresses[0][1]}/metrics", VLLM),
            gpus=GpuWatch(gpus),
            capacity=None,
            registration=Registration("gpu/7", "p", "127.0.0.1:9", "L4", 1, None),
            clock=asyncio.get_running_loop().time,
        )
        running = asyncio.ensure_future(agent.run(session))

        async def health() -> str:
            answer = await client.get(f"{ENDPOINTS}/gpu%2F7")
            return str(json.loads(await answer.text()).get("health"))

        async def serving() -> bool:
            return await health() == "serving"

        async def suspect() -> bool:
            return await health() == "suspect"

        try:
            await until(serving, 10, "the endpoint serves")
            row = await (await client.get(f"{ENDPOINTS}/gpu%2F7")).json()
            assert row["source"] == "api"
            assert row["signals"]["running"] is not None
            assert row["model"] == 'meta/"llama" \\ 8B'
            gpus.xid = 79
            await until(suspect, 10, "the GPU is judged unfit, and the last of its pool kept")
        finally:
            running.cancel()
            await asyncio.wait([running])
            await runner.cleanup()
