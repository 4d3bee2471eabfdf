"""Scraping real HTTP servers: what is recorded when pages come, fail, are too long, or hang."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.signals.collect.scrape import Scraper
from gpuxds.signals.model import Signal
from gpuxds.signals.store import Store, rules_of
from support.certificates import make_certificates
from support.pages import dcgm_page, vllm_page
from support.waiting import until

PROBE_TIMEOUT_S = 0.2


class Engine:
    """A server whose pages the test decides."""

    def __init__(self) -> None:
        self.answer = "page"
        self.health = 200
        self.asked = 0
        self.token = ""

    async def metrics(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.token = request.headers.get("Authorization", "")
        match self.answer:
            case "page":
                return web.Response(body=vllm_page(self.asked))
            case "long":
                return web.Response(body=vllm_page() * 400)
            case "html":
                return web.Response(text="<html>login</html>", content_type="text/html")
            case "hang":
                await asyncio.sleep(60)
        return web.Response(status=503)

    async def healthy(self, _: web.Request) -> web.Response:
        if self.health == 0:
            await asyncio.sleep(60)
        if self.health == 302:
            raise web.HTTPFound("http://127.0.0.1:1/")
        return web.Response(status=self.health)

    async def gpu(self, _: web.Request) -> web.Response:
        return web.Response(body=dcgm_page(xid=79))


@asynccontextmanager
async def scraping(
    extra: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Engine, Store, web.AppRunner]]:
    engine = Engine()
    app = web.Application()
    app.add_routes(
        [web.get("/metrics", engine.metrics), web.get("/health", engine.healthy), web.get("/dcgm", engine.gpu)]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    port = runner.addresses[0][1]
    scheme = "http" if tls is None else "https"
    policy = load_text(
        f"version: 1\npools: [{{name: p, endpoints: [{{id: a, address: '127.0.0.1:{port}', gpu: {{model: L4}}, "
        f"metrics: {{engine: '{scheme}://127.0.0.1:{port}/metrics', gpu: '{scheme}://127.0.0.1:{port}/dcgm', "
        f"health: '{scheme}://127.0.0.1:{port}/health'}}}}]}}]\n"
        f"signals:\n  engine: {{interval: 100ms, timeout: 200ms, stale_after: 300ms, max_bytes: 1000000{extra}}}\n"
        "  gpu: {interval: 100ms}\nhealth: {probe_timeout: 200ms}\n",
        "t.yaml",
    ).policy
    store = Store(rules_of(policy.signals))
    store.sync(["a"])
    try:
        async with Scraper(store, now=time.time, rng=random.Random(1), on_event=lambda: None) as scraper:
            scraper.apply(endpoints(policy), policy)
            yield engine, store, runner
    finally:
        await runner.cleanup()


def value(store: Store, signal: Signal) -> float:
    return store.get("a", signal)


async def test_engine_and_gpu_pages_become_signals() -> None:
    async with scraping() as (_, store, _runner):
        await until(lambda: value(store, Signal.OUTPUT_TOKENS_RATE) >= 0, 5, "two engine pages were read")
        await until(lambda: value(store, Signal.XID_OUT) == 79, 5, "the GPU page was read")
        assert value(store, Signal.RUNNING) > 0
        assert value(store, Signal.SCRAPE_FAILURES) == 0


@pytest.mark.parametrize("broken", ["error", "long", "html", "hang"])
async def test_a_page_that_cannot_be_used_is_a_failure_of_the_page_not_of_the_server(broken: str) -> None:
    async with scraping() as (engine, store, _):
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "a page was read")
        engine.answer = broken
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 2, 5, "pages fail")
        before = store.view(("a",), time.time()).times[Signal.ANSWERED][0]
        await until(lambda: store.view(("a",), time.time()).times[Signal.ANSWERED][0] > before, 5, "it still lives")
        assert not value(store, Signal.PROBE_REFUSALS) >= 1
        assert not value(store, Signal.PROBE_TIMEOUTS) >= 1
        engine.answer = "page"
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) == 0, 5, "pages are back")


async def test_a_closed_port_is_refused_and_a_hung_server_times_out_twice() -> None:
    async with scraping() as (engine, store, runner):
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "a page was read")
        engine.answer, engine.health = "hang", 0
        await until(lambda: value(store, Signal.PROBE_TIMEOUTS) >= 2, 5, "probes time out")
        await runner.cleanup()
        await until(lambda: value(store, Signal.PROBE_REFUSALS) >= 1, 5, "probes are refused")


@pytest.mark.real("openssl")
async def test_a_failure_that_comes_at_once_is_counted_no_sooner_than_a_timeout() -> None:
    """Else the first of a fleet that was cut off is convicted before the others fall silent."""
    async with scraping() as (engine, store, _):
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "a page was read")
        engine.answer, engine.health = "error", 503
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 1, 5, "a page fails")
        failed_at = store.view(("a",), time.time()).times[Signal.SCRAPE_FAILURES][0]
        await until(lambda: value(store, Signal.PROBE_TIMEOUTS) >= 2, 5, "probes fail")
        convicted_at = store.view(("a",), time.time()).times[Signal.PROBE_TIMEOUTS][0]
        assert convicted_at - failed_at > 1.9 * PROBE_TIMEOUT_S


async def test_a_page_behind_tls_is_trusted_through_the_policys_ca_and_not_without_it(tmp_path: Path) -> None:
    make_certificates(tmp_path, "one")
    make_certificates(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "one-cert.pem", tmp_path / "one-key.pem")
    async with scraping(f", ca_file: '{tmp_path / 'one-ca.pem'}'", tls=context) as (_, store, _runner):
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "the page is read")
    async with scraping(f", ca_file: '{tmp_path / 'other-ca.pem'}'", tls=context) as (_, store, _runner):
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 1, 5, "the page is refused")
        assert not value(store, Signal.RUNNING) > 0


async def test_the_bearer_token_is_read_anew_for_each_page(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    async with scraping(f", bearer_token_file: '{token}'") as (engine, _, _runner):
        await until(lambda: engine.token == "Bearer one", 5, "the token is sent")
        token.write_text("two\n")
        await until(lambda: engine.token == "Bearer two", 5, "the new token is sent")


@pytest.mark.parametrize("content", [b"a\nb", b"\xff\xfe", b""])
async def test_a_token_file_that_holds_no_token_is_a_failed_scrape_and_mends_itself(
    tmp_path: Path, content: bytes
) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    async with scraping(f", bearer_token_file: '{token}'") as (_, store, _runner):
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 2, 5, "scrapes fail")
        token.write_text("good\n")
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "pages are read again")


@pytest.mark.real("openssl")
async def test_a_ca_file_that_comes_later_is_used_then_and_death_is_seen_meanwhile(tmp_path: Path) -> None:
    make_certificates(tmp_path, "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "one-cert.pem", tmp_path / "one-key.pem")
    async with scraping(f", ca_file: '{tmp_path / 'later.pem'}'", tls=context) as (_, store, runner):
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 2, 5, "scrapes fail")
        assert not value(store, Signal.PROBE_TIMEOUTS) >= 1, "our own blindness was held against the server"
        (tmp_path / "one-ca.pem").rename(tmp_path / "later.pem")
        await until(lambda: value(store, Signal.RUNNING) > 0, 5, "pages are read")
        (tmp_path / "later.pem").unlink()
        await runner.cleanup()
        await until(lambda: value(store, Signal.PROBE_REFUSALS) >= 1, 5, "the closed port is seen")


async def test_a_health_page_that_redirects_to_a_closed_port_is_an_answer() -> None:
    async with scraping() as (engine, store, _):
        engine.answer, engine.health = "error", 302
        await until(lambda: value(store, Signal.SCRAPE_FAILURES) >= 3, 5, "pages fail")
        assert value(store, Signal.ANSWERED) == 1
        assert not value(store, Signal.PROBE_REFUSALS) >= 1


async def test_a_defect_on_one_page_costs_that_page_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr("gpuxds.signals.presets.dcgm.GpuReader.read", broken)
    async with scraping() as (_, store, _runner):
        await until(lambda: value(store, Signal.OUTPUT_TOKENS_RATE) >= 0, 5, "engine pages are read all the same")
        assert not value(store, Signal.XID_OUT) >= 0


async def test_the_port_is_asked_when_heartbeats_say_nothing_of_the_engine() -> None:
    async with scraping() as (_, store, runner):
        port = runner.addresses[0][1]
        policy = load_text(
            f"version: 1\npools: [{{name: p, endpoints: [{{id: a, address: '127.0.0.1:{port}', gpu: {{model: L4}}, "
            "metrics: {source: heartbeat}}]}]\n"
            "signals: {engine: {interval: 100ms}, heartbeat: {stale_after: 100ms}}\n"
            "health: {probe_timeout: 200ms}\n",
            "t.yaml",
        ).policy
        async with Scraper(store, now=time.time, rng=random.Random(1), on_event=lambda: None) as scraper:
            store.sync([])
            store.sync(["a"])
            scraper.apply(endpoints(policy), policy)
            assert list(scraper.running) == ["a port"], "its page is fetched"
            store.record("a", {Signal.HEARTBEAT: 1.0}, time.time())
            await until(lambda: value(store, Signal.ANSWERED) == 1, 5, "the port answers")
            await runner.cleanup()
            await until(lambda: value(store, Signal.PROBE_REFUSALS) >= 1, 5, "the port refuses")
