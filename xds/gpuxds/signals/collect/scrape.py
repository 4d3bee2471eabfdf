"""Keeps one task per metric page, which fetches it about once an interval and records what it says.

Every task has a moment of its own within the interval and returns to it after a delay, so that a fleet is not
scraped in one burst, not even after something held up all tasks at once. Rendering a page blocks an engine for a
while, so a slow page is asked less often. One scraper serves all proxies: its cost grows with endpoints, not with
requests. An engine page that fails is followed by a probe of the serving port at once, because the difference
between blind and dead must be known within a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import aiohttp
import structlog

from gpuxds.errors import SignalError
from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.model import EngineSignals, Policy
from gpuxds.signals.collect import dns
from gpuxds.signals.collect.fetch import FetchOptions, fetch
from gpuxds.signals.collect.probe import Answer, probe
from gpuxds.signals.model import Signal
from gpuxds.signals.presets import presets
from gpuxds.signals.presets.dcgm import GpuReader
from gpuxds.signals.reader import PageReader
from gpuxds.signals.store import ALIVE, Store

log = structlog.get_logger("gpuxds")

FIRST_SPREAD_S = 0.5
SPREAD_PER_TARGET_S = 0.002
"""First fetches are spread over this long per page, at most over `FIRST_SPREAD_S`: a small fleet is known at
once, a large one does not answer in one burst."""
SECOND_FETCH = (0.5, 1.5)
"""The second fetch of a page comes this many intervals after the first; from then on its moment is fixed."""
SHARE_OF_TIME = 4.0
"""A page may take a quarter of the time between two fetches …"""
LONGEST_PAUSE = 2.0
"""… which are never further apart than this many intervals, or a death would be seen too late."""
FAILURES = (SignalError, aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often and within what bounds a page is fetched."""

    interval_s: float
    options: FetchOptions

    @classmethod
    def of(cls, spec: EngineSignals) -> Cadence:
        """From the policy."""
        return cls(spec.interval, FetchOptions(spec.timeout, spec.max_bytes, spec.ca_file, spec.bearer_token_file))


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """An engine page, and everything its task needs to know; a change of any of it is a new task."""

    endpoint: Endpoint
    engine: str
    cadence: Cadence
    ewma_s: float
    probe_timeout_s: float
    probe_tries: int


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """A DCGM page and the endpoints whose GPUs it shows."""

    url: str
    endpoints: tuple[Endpoint, ...]
    cadence: Cadence
    out_xids: frozenset[int]
    drain_xids: frozenset[int]


@dataclass(frozen=True, slots=True)
class BeatTarget:
    """The serving port of an endpoint that lives by heartbeats, asked when they say nothing of the engine."""

    endpoint: Endpoint
    cadence: Cadence
    stale_after_s: float
    probe_timeout_s: float


Target = EngineTarget | GpuTarget | BeatTarget
Step = Callable[[str], Awaitable[None]]


class Scraper:
    """Follows the fleet with tasks. An async context manager: leaving it ends all of them."""

    def __init__(
        self, store: Store, *, now: Callable[[], float], rng: random.Random, on_event: Callable[[], None]
    ) -> None:
        self.store = store
        self.now = now
        self.rng = rng
        self.on_event = on_event
        self.running: dict[str, tuple[Target, asyncio.Task[None]]] = {}
        self.failing: dict[str, str] = {}
        """Page -> why it failed last; for people."""
        self.failures = 0

    async def __aenter__(self) -> Scraper:
        connector = dns.connector(limit=0, limit_per_host=2, keepalive_timeout=60)
        self.session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        self.probes = aiohttp.ClientSession(connector=dns.connector(limit=0, force_close=True))
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, task in self.running.values():
            task.cancel()
        self.running.clear()
        try:
            await self.group.__aexit__(kind, error, trace)
        finally:
            await self.session.close()
            await self.probes.close()

    def apply(self, endpoints: Iterable[Endpoint], policy: Policy) -> None:
        """Follow a fleet: keep the tasks of targets that are the same, replace the rest."""
        wanted = targets(tuple(endpoints), policy)
        for key in [key for key, (target, _) in self.running.items() if wanted.get(key) != target]:
            self.running.pop(key)[1].cancel()
            self.failing.pop(key, None)
        for key, target in wanted.items():
            if key not in self.running:
                self.running[key] = (target, self.group.create_task(self.follow(key, target)))

    async def follow(self, key: str, target: Target) -> None:
        """Fetch one page again and again, until cancelled."""
        interval_s = target.cadence.interval_s
        spread_s = min(interval_s, FIRST_SPREAD_S, SPREAD_PER_TARGET_S * len(self.running))
        await asyncio.sleep(self.rng.uniform(0, spread_s))
        step = self.step_of(target)
        moment = self.now() + interval_s * (self.rng.uniform(*SECOND_FETCH) - 1)
        while True:
            started = self.now()
            try:
                await step(key)
            except Exception as error:  # a page that trips a defect of ours costs this page only
                log.exception("scrape.defect", target=key)
                self.failed(key, error)
            took_s = self.now() - started
            patience_s = min(SHARE_OF_TIME * took_s, LONGEST_PAUSE * interval_s)
            moment = max(moment + interval_s, self.now())
            if key not in self.failing:
                moment = max(moment, started + patience_s)
            await asyncio.sleep(moment - self.now())

    def step_of(self, target: Target) -> Step:
        """What is done once an interval."""
        match target:
            case EngineTarget():
                return self.engine_step(target)
            case GpuTarget():
                return self.gpu_step(target)
            case BeatTarget():
                return self.beat_step(target)

    async def page(self, key: str, url: str, cadence: Cadence) -> bytes | None:
        """The page, or None when it cannot be had; says so once."""
        try:
            return await fetch(self.session, url, cadence.options)
        except FAILURES as error:
            self.failed(key, error)
            return None

    def failed(self, key: str, error: BaseException) -> None:
        """Count a failure; log it when it is a new one."""
        self.failures += 1
        text = str(error) or type(error).__name__
        if self.failing.get(key) != text:
            log.warning("scrape.failed", target=key, error=text)
        self.failing[key] = text

    def engine_step(self, target: EngineTarget) -> Step:
        """One fetch of an engine page."""
        reader = PageReader(presets()[target.engine], target.ewma_s)
        endpoint, store = target.endpoint, self.store

        async def step(key: str) -> None:
            page = await self.page(key, endpoint.metrics.engine_url, target.cadence)
            if page is None:
                store.add(endpoint.id, Signal.SCRAPE_FAILURES, self.now())
                await self.ask(target)
                return
            at = self.now()
            try:
                signals = reader.read(page, at)
            except SignalError as error:
                self.failed(key, error)
                store.add(endpoint.id, Signal.SCRAPE_FAILURES, at)
                store.record(endpoint.id, ALIVE, at)
                return
            back = self.failing.pop(key, None) is not None
            store.record(endpoint.id, {**signals, **ALIVE, Signal.SCRAPE_FAILURES: 0.0}, at)
            if back:
                log.info("scrape.recovered", target=key)
                self.on_event()

        return step

    async def ask(self, target: EngineTarget) -> None:
        """Probe the serving port; repeat a timeout at once, so that a hung server is known in seconds.

        A host without a name or a route fails in no time. It is counted no sooner than a timeout would be, or the
        first of a whole fleet that we lost is convicted before the others can show that the fault is ours.
        """
        endpoint, store = target.endpoint, self.store
        for _ in range(target.probe_tries):
            asked_at = self.now()
            answer = await probe(self.probes, endpoint, target.probe_timeout_s)
            if answer is Answer.SILENT:
                await asyncio.sleep(max(0.0, asked_at + target.probe_timeout_s - self.now()))
            if answer is Answer.ALIVE:
                store.record(endpoint.id, ALIVE, self.now())
                return
            if answer is Answer.UNKNOWN:
                return
            count = Signal.PROBE_REFUSALS if answer is Answer.REFUSED else Signal.PROBE_TIMEOUTS
            store.add(endpoint.id, count, self.now())
            self.on_event()
            if answer is Answer.REFUSED:
                return

    def beat_step(self, target: BeatTarget) -> Step:
        """One question to the port of an endpoint whose heartbeats came once and say nothing of the engine now.

        Its host may be out of our reach, so a port that does not answer proves nothing; one that refuses does.
        """
        endpoint, store = target.endpoint, self.store

        async def step(_: str) -> None:
            heard_s = self.now() - store.at(endpoint.id, Signal.RUNNING)
            if heard_s <= target.stale_after_s or store.at(endpoint.id, Signal.HEARTBEAT) == float("-inf"):
                return
            answer = await probe(self.probes, endpoint, target.probe_timeout_s)
            if answer is Answer.ALIVE:
                store.record(endpoint.id, ALIVE, self.now())
            elif answer is Answer.REFUSED:
                store.add(endpoint.id, Signal.PROBE_REFUSALS, self.now())
                self.on_event()

        return step

    def gpu_step(self, target: GpuTarget) -> Step:
        """One fetch of a DCGM page, read for each endpoint on it."""
        readers = {
            endpoint.id: GpuReader(endpoint.metrics.gpu_labels, target.out_xids, target.drain_xids)
            for endpoint in target.endpoints
        }

        async def step(key: str) -> None:
            page = await self.page(key, target.url, target.cadence)
            if page is None:
                return
            try:
                for endpoint_id, reader in readers.items():
                    self.store.record(endpoint_id, reader.read(page, self.now()), self.now())
            except SignalError as error:
                self.failed(key, error)
                return
            self.failing.pop(key, None)

        return step


def targets(endpoints: tuple[Endpoint, ...], policy: Policy) -> dict[str, Target]:
    """Every page of a fleet, by a name for logs; endpoints that share a DCGM page share its fetch."""
    engines = {pool.name: pool.engine for pool in policy.pools}
    spec, health = policy.signals, policy.health
    found: dict[str, Target] = {}
    by_url: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.metrics.scraped:
            found[f"{endpoint.id} engine"] = EngineTarget(
                endpoint, engines[endpoint.pool], Cadence.of(spec.engine), spec.ewma, health.probe_timeout,
                health.timeouts_to_fail,
            )  # fmt: skip
        else:
            found[f"{endpoint.id} port"] = BeatTarget(
                endpoint, Cadence.of(spec.engine), spec.heartbeat.stale_after, health.probe_timeout
            )
        if endpoint.metrics.gpu_url:
            by_url.setdefault(endpoint.metrics.gpu_url, []).append(endpoint)
    out_xids, drain_xids = frozenset(health.quarantine_xids), frozenset(health.drain_xids)
    for url, sharing in by_url.items():
        found[f"{url} gpu"] = GpuTarget(url, tuple(sharing), Cadence.of(spec.gpu), out_xids, drain_xids)
    return found
