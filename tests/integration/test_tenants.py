"""Tenants and their limits on the real Envoy: who is counted, what is refused, and that nobody else notices."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.examples import example, fleet_of, moved
from support.stack import Stack, stack
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(180)]

FLEET = {"a100-1": "A100-80", "a100-2": "A100-80"}


class Answer:
    """What a client got."""

    def __init__(self, status: int, headers: dict[str, str], text: bytes, seconds: float) -> None:
        self.status, self.headers, self.text, self.seconds = status, headers, text, seconds

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


def body(size: int = 100, tokens: int = 2, prompt: str = "hello") -> bytes:
    """A completion request of exactly `size` bytes."""
    document = {"prompt": prompt, "max_tokens": tokens, "user": ""}
    missing = size - len(json.dumps(document))
    return json.dumps({**document, "user": "x" * missing}).encode()


async def ask(running: Stack, content: bytes | None = None, **headers: str) -> Answer:
    """One request as a tenant."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    started = time.monotonic()
    async with running.session.post(running.url, data=content or body(), headers=sent) as answer:
        told = {name.lower(): value for name, value in answer.headers.items()}
        text = await answer.read()
        return Answer(answer.status, told, text, time.monotonic() - started)


async def start(running: Stack, tenants: dict[str, Any] | None, **parts: Any) -> None:
    """The control plane and Envoy with these tenants from the start."""
    policy = running.policy("round_robin", **parts)
    running.write_policy({**policy, "tenants": tenants} if tenants else policy)
    await running.start_control_plane()
    await running.start_envoy()


async def test_requests_above_the_burst_are_refused_until_the_second_that_retry_after_says(tmp_path: Path) -> None:
    tenants = {
        "header": "x-tenant",
        "default": {"requests_per_second": 0.5, "requests_burst": 3},
        "overrides": {"acme": {"requests_per_second": 100}},
    }
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, tenants)
        served = [await ask(running, x_tenant="small") for _ in range(3)]
        refused_at = time.monotonic()
        refused = await ask(running, x_tenant="small")
        assert [answer.status for answer in served] == [200, 200, 200]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in served] == ["2", "1", "0"]
        assert served[0].headers["x-ratelimit-limit-requests"] == "3"
        assert (refused.status, refused.headers["content-type"]) == (429, "application/json")
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.error["type"] == "requests"
        assert refused.headers["retry-after"] in ("1", "2")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-gpuxds-limited" not in refused.headers
        for answer in (ask(running, x_tenant="another"), ask(running), ask(running, x_tenant="acme")):
            assert (await answer).status == 200, "each has its own bucket"
        assert {(await ask(running, x_tenant="acme")).status for _ in range(10)} == {200}
        assert (await ask(running, x_tenant="small", x_gpuxds_tenant="acme")).status == 429
        await asyncio.sleep(max(0.0, refused_at + int(refused.headers["retry-after"]) - time.monotonic()))
        assert (await ask(running, x_tenant="small")).status == 200, "retry-after was right"


async def test_retry_after_falls_while_a_slow_bucket_fills(tmp_path: Path) -> None:
    default = {"requests_per_second": 0.25, "requests_burst": 1}
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, {"header": "x-tenant", "default": default})
        assert (await ask(running, x_tenant="a")).status == 200
        waits = []

        async def served() -> bool:
            answer = await ask(running, x_tenant="a")
            if answer.status == 429:
                assert answer.headers["x-ratelimit-limit-requests"] == "1"
                waits.append(int(answer.headers["retry-after"]))
            return answer.status == 200

        await until(served, 10, "the bucket holds a request again")
        assert waits == sorted(waits, reverse=True)
        assert waits[0] in (3, 4)
        assert waits[-1] == 1, "it falls until the bucket holds a request"


async def test_tokens_are_drawn_by_their_estimate(tmp_path: Path) -> None:
    default = {"requests_per_second": 100, "tokens_per_second": 100, "tokens_burst": 1000}
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, {"header": "x-tenant", "default": default})
        costs_602 = body(2400)
        first = await ask(running, costs_602, x_tenant="a")
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) in range(398, 420)
        assert first.headers["x-ratelimit-limit-requests"] == "1000"
        refused_at = time.monotonic()
        refused = await ask(running, costs_602, x_tenant="a")
        assert (refused.status, refused.error["type"]) == (429, "tokens")
        left = int(refused.headers["x-ratelimit-remaining-tokens"])
        assert int(refused.headers["retry-after"]) == -((left - 602) // 100)
        assert (await ask(running, costs_602, x_tenant="b")).status == 200
        assert (await ask(running, body(400), x_tenant="a")).status == 200, "a smaller one still fits"
        never = await ask(running, body(4000), x_tenant="b")
        assert (never.status, never.error["code"]) == (413, "request_exceeds_limit")
        assert "retry-after" not in never.headers
        drawn_s = 102 / 100
        wait_s = refused_at + int(refused.headers["retry-after"]) + drawn_s - time.monotonic()
        await asyncio.sleep(max(0.0, wait_s))
        assert (await ask(running, costs_602, x_tenant="a")).status == 200


async def test_the_example_knows_keys_by_their_hashes_and_nothing_shows_a_key(tmp_path: Path) -> None:
    document = example("tenants")
    async with stack(tmp_path, fleet_of(document), control_plane=False, envoy=False) as running:
        running.write_policy(moved(document, running))
        await running.start_control_plane()
        await running.start_envoy()

        async def admitted(key: str) -> int:
            """Requests that are served of 14 at once."""
            answers = await asyncio.gather(*(ask(running, authorization=f"Bearer {key}") for _ in range(14)))
            return sum(answer.status == 200 for answer in answers)

        assert await admitted("sk-batch") in (10, 11), "1 a second, and ten seconds' worth at once"
        assert await admitted("sk-probes") == 14
        assert await admitted("sk-unknown-1") in range(10, 13)
        assert await admitted("sk-unknown-2") in range(10, 13)
        shown = json.dumps(await running.envoy("/config_dump?include_eds")) + running.log() + running.log("envoy-1")
        async with running.session.get(f"http://127.0.0.1:{running.envoy_port}/stats") as answer:
            shown += await answer.text()
        assert "sk-" not in shown


async def test_one_tenant_at_ten_times_its_share_leaves_the_others_alone(tmp_path: Path) -> None:
    """Two polite tenants, and one whose requests carry prompts that would hold up everybody."""
    tenants = {"header": "x-tenant", "default": {"requests_per_second": 1.0, "requests_burst": 3}}
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, tenants)
        alone, _ = await p95_of_the_others(running, loud_rps=0.9)
        beside, refused = await p95_of_the_others(running, loud_rps=10.0)
        assert refused > 0.8, "it was loud"
        assert beside < 1.1 * alone, (alone, beside)


async def p95_of_the_others(running: Stack, loud_rps: float, seconds: float = 15.0) -> tuple[float, float]:
    """p95 of two tenants at 0.9 requests/s each, in seconds, and the share of the loud one's that was refused."""
    quiet = body(tokens=50)
    loud = body(6000, tokens=50, prompt="word " * 1100)
    polite = [every(running, 0.9, seconds, quiet, name) for name in ("one", "two")]
    first, second, noise = await asyncio.gather(*polite, every(running, loud_rps, seconds, loud, "loud"))
    answers = [*first, *second]
    assert {answer.status for answer in answers} == {200}
    times = sorted(answer.seconds for answer in answers)
    refused = sum(answer.status == 429 for answer in noise) / len(noise)
    return times[int(0.95 * len(times))], refused


async def every(running: Stack, rate_rps: float, seconds: float, content: bytes, tenant: str) -> list[Answer]:
    """A tenant's answers; it sends at this rate, whatever becomes of its requests."""
    tasks, started = [], time.monotonic()
    for number in range(int(rate_rps * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate_rps - time.monotonic()))
        tasks.append(asyncio.ensure_future(ask(running, content, x_tenant=tenant)))
    return await asyncio.gather(*tasks)


async def test_an_edited_limit_is_in_force_for_new_connections(tmp_path: Path) -> None:
    async with stack(tmp_path, FLEET, control_plane=False, envoy=False) as running:
        await start(running, None)
        assert {(await ask(running)).status for _ in range(5)} == {200}
        limits = {"header": "x-tenant", "default": {"requests_per_second": 0.1, "requests_burst": 1}}
        running.write_policy({**running.policy("round_robin"), "tenants": limits})

        async def limited() -> bool:
            return (await ask(running, connection="close")).status == 429

        await until(limited, 10, "the limit is in force")
