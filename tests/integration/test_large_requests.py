"""Large requests run where the memory is, on the real Envoy: exact at the limit, whatever shape their body has."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.examples import example, fleet_of, moved
from support.stack import Stack, stack
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(180)]

FLEET = {"h100": "H100-80", "l4-1": "L4", "l4-2": "L4"}
LIMIT = {"over_tokens": 4096}
LARGE_BYTES = 20_000


def body(size: int, tokens: int = 2, **more: Any) -> bytes:
    """A completion request of exactly `size` bytes; its prompt is short, so that fake servers answer at once."""
    document = {"prompt": "hello", "max_tokens": tokens, **more, "user": ""}
    missing = size - len(json.dumps(document))
    filling = random.Random(size).choices("abcdefghijklmnopqrstuvwxyz _", k=missing)
    made = json.dumps({**document, "user": "".join(filling)}).encode()
    assert len(made) == size
    return made


async def ask(
    running: Stack, content: bytes | AsyncIterator[bytes], **headers: str
) -> tuple[int, str, dict[str, str], bytes]:
    """Status, who served, headers and body of the answer."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    data = io.BytesIO(content) if isinstance(content, bytes) else content
    async with running.session.post(running.url, data=data, headers=sent) as answer:
        told = {name.lower(): text for name, text in answer.headers.items()}
        return answer.status, told.get("x-fake-gpu", ""), told, await answer.read()


async def servers(running: Stack, content: bytes, times: int = 12, **headers: str) -> set[str]:
    """Who serves this request when it is sent many times at once."""
    answers = await asyncio.gather(*(ask(running, content, **headers) for _ in range(times)))
    assert {status for status, *_ in answers} == {200}, answers[0]
    return {server for _, server, *_ in answers}


def limited(running: Stack, **parts: Any) -> dict[str, Any]:
    policy = running.policy("round_robin", **parts)
    policy["pools"][0]["large_requests"] = LIMIT
    return policy


async def start(running: Stack, policy: dict[str, Any]) -> None:
    """The control plane and Envoy with this policy from the start."""
    running.write_policy(policy)
    await running.start_control_plane()
    await running.start_envoy()


async def test_exactly_the_limit_runs_everywhere_and_one_token_more_where_the_memory_is(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, limited(running))
        exactly, more = 4 * (4096 - 2), 4 * (4096 - 2) + 1
        assert await servers(running, body(exactly)) == set(FLEET)
        assert await servers(running, body(more)) == {"h100"}
        assert await servers(running, body(400)) == set(FLEET)
        asked = {"stream": True, "prompt": "x" * 400}
        assert await first_server(running, body(1000, 4096 - 250, **asked)) != "h100"
        assert await first_server(running, body(1000, 4096 - 250 + 1, **asked)) == "h100"


async def first_server(running: Stack, content: bytes) -> str:
    """Who serves a stream, one after the other, until it is not h100; the rest of the answer is not waited for."""
    server = "h100"
    for _ in range(len(FLEET)):
        async with running.session.post(running.url, data=content) as answer:
            server = answer.headers["x-fake-gpu"]
            answer.close()
        if server != "h100":
            break
    return server


async def test_a_body_is_read_whatever_shape_it_comes_in(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, limited(running))
        large = body(LARGE_BYTES)

        async def in_chunks() -> AsyncIterator[bytes]:
            for place in range(0, len(large), 3000):
                yield large[place : place + 3000]

        for _ in range(4):
            assert (await ask(running, in_chunks()))[:2] == (200, "h100"), "chunked, without content-length"
        packed = gzip.compress(large)
        assert len(packed) < 4 * 4096, "it would be small if it were not unpacked"
        assert await servers(running, packed, content_encoding="gzip") == {"h100"}
        assert await servers(running, gzip.compress(body(400)), content_encoding="gzip") == set(FLEET)
        status, server, _, _ = await ask(running, b'{"prompt": ' + b"x" * 30_000)
        assert (status, server) == (400, ""), "invalid JSON is the engine's to refuse"
        assert await running.stat("cluster.llama/large.upstream_rq_400") == 1, "and counted by its size"
        status, _, told, text = await ask(running, large, content_encoding="br")
        assert (status, told["content-type"]) == (415, "application/json")
        assert error(text)["code"] == "unsupported_content_encoding"
        assert await servers(running, body(10_000_000), times=2) == {"h100"}, "10 MB pass"
        status, _, told, text = await ask(running, body(10_485_761))
        assert (status, told["content-type"]) == (413, "application/json")
        assert error(text)["code"] == "request_too_large"
        async with running.session.get(running.url.replace("completions", "models")) as answer:
            assert answer.status == 200, "a request without a body"


def error(text: bytes) -> dict[str, Any]:
    """The error of an answer in the shape of OpenAI's."""
    found: dict[str, Any] = json.loads(text)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


async def test_a_client_cannot_choose_its_own_estimate_unless_the_policy_trusts_it(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, limited(running))
        claims: Any = {"connection": "close", "x_gpuxds_estimated_tokens": "1", "x_estimated_tokens": "1"}
        assert await servers(running, body(LARGE_BYTES), **claims) == {"h100"}
        running.write_policy(limited(running, estimate={"trust_header": "x-estimated-tokens"}))

        async def trusted() -> bool:
            return await servers(running, body(LARGE_BYTES), **claims) == set(FLEET)

        await until(trusted, 10, "the header is trusted")
        assert await servers(running, body(400), connection="close", x_estimated_tokens="4097") == {"h100"}
        assert await servers(running, body(LARGE_BYTES), connection="close", x_gpuxds_estimated_tokens="1") == {
            "h100"
        }
        assert await servers(running, body(LARGE_BYTES), connection="close", x_estimated_tokens="few") == {"h100"}


async def test_without_an_endpoint_a_large_request_is_told_why_and_when_to_come_back(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, limited(running))
        await running.fault("h100", die=True)
        status, _, told, text = await ask(running, body(LARGE_BYTES))
        assert (status, told["retry-after"], told["content-type"]) == (503, "10", "application/json")
        refused = error(text)
        assert (refused["type"], refused["code"]) == ("server_error", "no_endpoint_for_large_request")
        assert "5002 tokens; above 4096" in refused["message"]
        assert "80 GB" in refused["message"]

        async def failed() -> bool:
            return bool((await running.row("h100"))["health"] == "failed")

        await until(failed, 10, "the control plane knows")
        status, _, told, text = await ask(running, body(LARGE_BYTES))
        assert (status, told["retry-after"], error(text)) == (503, "10", refused)
        assert await servers(running, body(400)) == {"l4-1", "l4-2"}, "small requests do not notice"
        await running.fault("h100", die=False)

        async def back() -> bool:
            return (await ask(running, body(LARGE_BYTES)))[:2] == (200, "h100")

        await until(back, 30, "it is back")


async def test_weights_of_large_requests_are_decided_for_their_own_endpoints(tmp_path: Path) -> None:
    fleet = {"h100": "H100-80", "a100": "A100-80", "l4": "L4"}
    async with stack(tmp_path, fleet, control_plane=False, envoy=False) as running:
        policy = running.policy("gpu_aware")
        policy["pools"][0]["large_requests"] = LIMIT
        await start(running, policy)
        shared, large = await cluster(running, "llama"), await cluster(running, "llama/large")
        assert set(shared) == {"h100", "a100", "l4"}
        assert set(large) == {"h100", "a100"}
        assert shared["a100"] / shared["h100"] != pytest.approx(large["a100"] / large["h100"], rel=0.01)
        told = await running.api("/api/v1/explain")
        assert any("goes to llama/large" in rule for found in told["rules"] for rule in found["rules"])
        weights = {row["id"]: row["weight"] for row in told["endpoints"] if row["cluster"] == "llama/large"}
        assert set(weights) == {"h100", "a100"}


async def cluster(running: Stack, name: str) -> dict[str, int]:
    """Endpoint -> weight, in one of Envoy's clusters."""
    names = {port: endpoint for endpoint, port in running.ports.items()}
    for status in (await running.envoy("/clusters?format=json"))["cluster_statuses"]:
        if status["name"] == name:
            hosts = status["host_statuses"]
            return {names[host["address"]["socket_address"]["port_value"]]: host["weight"] for host in hosts}
    return {}


async def test_the_example_runs(tmp_path: Path) -> None:
    document = example("large-requests")
    async with stack(tmp_path, fleet_of(document), control_plane=False, envoy=False) as running:
        policy = moved(document, running)
        policy["pools"][0]["strategy"] = "round_robin"
        await start(running, policy)
        assert await servers(running, body(4 * (8192 - 2))) == {"h100-1", "l40s-1", "l4-1"}
        assert await servers(running, body(4 * (8192 - 2) + 1)) == {"h100-1", "l40s-1"}
