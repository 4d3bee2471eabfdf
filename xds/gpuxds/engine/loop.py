"""The loop: something changed, or the tick came → view → decide (pure) → publish what differs.

One task decides; the others feed it (scrapers, watchers, DNS, the admin API) and poke it when something
cannot wait for the tick, such as a refused connection or a drain. Nothing else changes decisions, so there
is no locking, and a decision is a function of what it was handed.

Until the first decision stands on an answer from every endpoint, or `grace_s` has passed, nothing is
published: streams are held, and an Envoy that was configured before goes on with what it has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from gpuxds.discovery.access_logs import Served
from gpuxds.discovery.events import Event, NodeInfo
from gpuxds.discovery.loads import EndpointLoad, Key
from gpuxds.discovery.server import AdsServer, Hooks
from gpuxds.engine import actions, heartbeats, keeping
from gpuxds.engine.census import Census
from gpuxds.engine.drains import Drains
from gpuxds.engine.events import EventLog
from gpuxds.engine.heartbeats import Heartbeats
from gpuxds.engine.loads import Timings, addresses, record_loads
from gpuxds.engine.observe import Metrics
from gpuxds.engine.policy import PolicyHolder
from gpuxds.engine.publisher import Publisher
from gpuxds.engine.registry import Registry
from gpuxds.engine.report import Reporter
from gpuxds.engine.reservations import Reservations, expire
from gpuxds.engine.resolve import INTERVAL_S, lookup
from gpuxds.engine.sources import Sources
from gpuxds.engine.watch import changes
from gpuxds.errors import NotReady, SnapshotError, UnknownEndpoint
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.model import Policy
from gpuxds.policy.override import applied
from gpuxds.policy.slices import Slice, slices_of
from gpuxds.scoring.contract import PoolDecision, PoolMemory
from gpuxds.scoring.facts import PoolFacts, facts_of
from gpuxds.scoring.pipeline import decide, decide_slice
from gpuxds.scoring.tokens import TokenMeans, token_means
from gpuxds.signals.collect.scrape import Scraper
from gpuxds.signals.model import Freshness, Signal, SignalView
from gpuxds.signals.store import Store, rules_of

TICK_S = 1.0
UNREADY_TICK_S = 0.1
"""Until the first publication proxies wait for us, so nobody waits for a tick."""
POKE_SPACING_S = 0.01
"""Pokes this close together become one decision."""
SAVE_EVERY_S = 1.0

log = structlog.get_logger("gpuxds")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    policy_path: Path
    state_path: Path
    grace_s: float = 5.0
    """Longest wait for fresh signals before the first publication."""


@dataclass(slots=True)
class Engine:
    """Everything that is in force, and the tasks that keep it so."""

    settings: Settings
    server: AdsServer
    now: Callable[[], float]
    """Unix seconds that never jump back."""
    rng: random.Random = field(default_factory=random.Random)
    metrics: Metrics = field(default_factory=Metrics)
    holder: PolicyHolder = field(init=False)
    policy: Policy = field(init=False)
    """The policy that decisions follow; changes together with the fleet and never between two awaits."""
    sources: Sources = field(default_factory=Sources)
    fleet: Fleet = field(default_factory=Fleet)
    facts: dict[str, PoolFacts] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    """Of all pools."""
    rows: dict[str, int] = field(default_factory=dict)
    """Endpoint -> its row in its pool's facts and decisions."""
    by_address: dict[Key, str] = field(default_factory=dict)
    store: Store = field(init=False)
    scraper: Scraper = field(init=False)
    publisher: Publisher = field(default_factory=Publisher)
    drains: Drains = field(default_factory=Drains)
    overrides: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Pool -> strategy that was set while the server ran."""
    registry: Registry = field(default_factory=Registry)
    reservations: Reservations = field(default_factory=Reservations)
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    timings: Timings = field(default_factory=Timings)
    census: Census = field(default_factory=Census)
    memories: dict[str, PoolMemory] = field(default_factory=dict)
    decisions: dict[str, PoolDecision] = field(default_factory=dict)
    """By pool."""
    parts: dict[str, PoolDecision] = field(default_factory=dict)
    """Decisions on slices, by cluster."""
    started_at: float = 0.0
    ready: bool = False
    poked: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """A host name came that nobody has looked up yet."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    disk: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "state"))
    """Writes the state; of its own, so that nothing else can keep it waiting."""
    events: EventLog = field(init=False)
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        self.holder = PolicyHolder(self.settings.policy_path)
        self.started_at = self.now()
        self.events = EventLog(next_id=int(self.started_at * 1000))
        self.reporter = Reporter(self.metrics, self.events)
        self.server.hooks = Hooks(
            self.note_event, self.note_loads, self.note_served, self.metrics.stalled.inc, self.note_proxy
        )

    # -- start and stop ------------------------------------------------------------------------------

    def load(self) -> None:
        """Read state and policy. Raises PolicyError when there is no policy to serve, good or last good."""
        state = keeping.read(self)
        outcome = self.holder.start(state.policy_text, self.now())
        self.reporter.reload(self.holder.path, outcome)
        keeping.restore(self, state)
        self.policy = applied(self.holder.current.policy, self.overrides)
        self.store = Store(rules_of(self.policy.signals))
        self.scraper = Scraper(self.store, now=self.now, rng=self.rng, on_event=self.poke)

    async def run(self) -> None:
        """Serve until `stop`. Feeders and the loop run in one task group."""
        try:
            async with self.scraper, asyncio.TaskGroup() as tasks:
                with self.contained("start"):
                    self.refresh_fleet(force=True)
                tasks.create_task(self.watch())
                tasks.create_task(self.resolve())
                tasks.create_task(self.save_regularly())
                tasks.create_task(self.decide_regularly())
        finally:
            self.disk.shutdown()
            self.save()

    @contextmanager
    def contained(self, where: str) -> Iterator[None]:
        """A defect of ours is told and counted, and what was in force stays: fail-static holds for us too."""
        try:
            yield
        except Exception:
            self.metrics.defects.labels(where).inc()
            log.exception("defect", where=where, effect="what was in force stays")

    def stop(self) -> None:
        """End `run` gracefully."""
        self.stopping.set()
        self.asked.set()
        self.poke()

    def poke(self) -> None:
        """Something cannot wait for the tick."""
        self.poked.set()

    # -- what feeds the loop ---------------------------------------------------------------------------

    async def watch(self) -> None:
        """Reload the policy and file_sd files when they change."""
        while not self.stopping.is_set():
            paths = (self.holder.path, *self.sources.patterns(self.holder.current))
            async for _ in changes(paths, self.stopping):
                with self.contained("reload"):
                    self.reload()
                if paths[1:] != self.sources.patterns(self.holder.current):
                    break

    def reload(self) -> None:
        """Take over whatever the files say now."""
        before = self.holder.loaded, self.holder.text
        outcome = self.holder.reload(self.now())
        good = outcome is not None and outcome.ok
        try:
            self.refresh_fleet(force=good)
        except Exception as error:
            if good:
                outcome = self.holder.take_back(before, error, self.now())
            raise
        finally:
            if outcome is not None:
                self.reporter.reload(self.holder.path, outcome)

    def refresh_fleet(self, *, force: bool = False) -> None:
        """Merge the sources; when the fleet changed, follow it with scrapers, rows and facts."""
        before = self.sources.problems
        fleet = self.merged()
        if self.sources.unknown(fleet):
            self.asked.set()
        if self.sources.problems != before:
            for problem in self.sources.problems:
                log.warning("fleet.problem", problem=str(problem))
        self.follow(applied(self.holder.current.policy, self.overrides), fleet, force=force)

    def merged(self) -> Fleet:
        """The fleet that all sources together say there is, with the addresses that are known."""
        current = self.holder.current
        return self.sources.build(current, self.fleet, self.registry.endpoints(current.policy))

    def follow(self, policy: Policy, fleet: Fleet, *, force: bool = False) -> None:
        """Make this policy and this fleet the ones in force, all at once: what can fail comes first."""
        if fleet == self.fleet and not force:
            return
        facts = {pool.name: facts_of(pool, fleet.pool(pool.name), policy.gpu_models) for pool in policy.pools}
        held = self.reservations.by_id.values()
        slices = tuple(part for pool in policy.pools for part in slices_of(pool, facts[pool.name].endpoints, held))
        self.publisher.configure(policy, fleet, slices, self.now())
        self.reporter.fleet(self.fleet, fleet, self.now())
        self.policy, self.fleet, self.facts, self.slices = policy, fleet, facts, slices
        self.rows = {name: row for found in facts.values() for row, name in enumerate(found.ids)}
        self.by_address = addresses(fleet)
        self.store.rules = rules_of(policy.signals)
        self.store.sync([endpoint.id for endpoint in fleet.endpoints])
        self.scraper.apply(fleet.endpoints, policy)
        heartbeats.expect(self)
        self.timings.forget(fleet.by_id)
        self.poke()

    async def resolve(self) -> None:
        """Ask for host names again and again."""
        while not self.stopping.is_set():
            await happened(self.asked, INTERVAL_S)
            self.asked.clear()
            self.sources.learn(await lookup(self.sources.hosts(self.fleet)))
            with self.contained("resolve"):
                self.follow(self.policy, self.sources.address(self.fleet))

    def note_event(self, node: NodeInfo, event: Event) -> None:
        """A proxy accepted or rejected something."""
        self.reporter.answer(node, event, self.now())

    def note_proxy(self, node: NodeInfo, connected: bool) -> None:
        """A proxy came or went: the number of proxies is part of the decision."""
        self.reporter.proxy(node, connected, self.now())
        self.poke()

    def note_loads(self, loads: Sequence[EndpointLoad]) -> None:
        """Take in what proxies count."""
        guarded = {pool.name for pool in self.policy.pools if pool.guard}
        record_loads(self.store, self.by_address, guarded, loads, self.now())

    def note_served(self, served: Mapping[Key, Served]) -> None:
        """Take in what proxies log about requests that ended."""
        self.timings.take(self.store, self.by_address, served, self.policy.signals.ewma, self.now())

    # -- the decision ------------------------------------------------------------------------------------

    async def decide_regularly(self) -> None:
        """Decide on every tick and soon after every poke."""
        while not self.stopping.is_set():
            if await happened(self.poked, TICK_S if self.ready else UNREADY_TICK_S):
                await asyncio.sleep(POKE_SPACING_S)
                self.poked.clear()
            with self.contained("decide"):
                self.decide()

    def decide(self) -> None:
        """One decision over all pools, published when it differs."""
        now = self.now()
        view = self.store.view(tuple(endpoint.id for endpoint in self.fleet.endpoints), now)
        if not self.ready:
            heard = everyone_heard(view) and not self.sources.unknown(self.fleet)
            self.ready = heard or now - self.started_at >= self.settings.grace_s
            if not self.ready:
                return
            log.info("ready", after_s=round(now - self.started_at, 2), endpoints=len(view.ids))
        self.drains.forget_missing(self.fleet.by_id, now)
        expire(self)
        with self.metrics.decide_s.time():
            decisions = self.decide_pools(view, now)
            parts = self.decide_parts(decisions, token_means(view))
        self.reporter.decisions(self.decisions | self.parts, decisions | parts)
        self.decisions, self.parts = decisions, parts
        self.memories = {name: decision.memory for name, decision in (decisions | parts).items()}
        self.publish()
        actions.let_go(self)

    def decide_pools(self, view: SignalView, now: float) -> dict[str, PoolDecision]:
        """What follows from the view, pool by pool."""
        tokens, reserved = token_means(view), self.reservations.held(self.fleet)
        return {
            pool.name: decide(
                self.policy,
                pool,
                self.facts[pool.name],
                view,
                self.memories.get(pool.name, PoolMemory()),
                self.drains.by_id,
                max(1, self.census.observe(pool.name, self.server.proxies_of(pool.name), now)),
                now,
                tokens,
                reserved,
            )
            for pool in self.policy.pools
        }

    def decide_parts(self, decisions: Mapping[str, PoolDecision], tokens: TokenMeans) -> dict[str, PoolDecision]:
        """What follows for the slices of the pools that were just decided on."""
        pools = {pool.name: pool for pool in self.policy.pools}
        return {
            part.cluster: decide_slice(
                self.policy,
                pools[part.pool],
                part,
                self.facts[part.pool],
                decisions[part.pool],
                self.memories.get(part.cluster, PoolMemory()),
                tokens,
            )
            for part in self.slices
        }

    def publish(self) -> None:
        """Hand changed snapshots to the server. It skips what a stream already has."""
        self.publisher.encode(self.clusters())
        try:
            self.server.publish(self.publisher.snapshots(self.now()))
        except SnapshotError as error:
            self.metrics.refused_snapshots.inc()
            log.error("snapshot.refused", error=str(error), effect="the last snapshot stays")

    def clusters(self) -> list[PoolDecision]:
        """Every decision: the pools', then their slices'."""
        return [*self.decisions.values(), *self.parts.values()]

    def require_ready(self) -> None:
        """Raises NotReady before the first decision."""
        if not self.decisions:
            raise NotReady("waiting for the first signals; try again in a moment")

    def decision_of(self, endpoint_id: str) -> PoolDecision:
        """The decision that covers an endpoint. Raises UnknownEndpoint."""
        self.require_ready()
        endpoint = self.fleet.by_id.get(endpoint_id)
        if endpoint is None or endpoint.pool not in self.decisions:
            known = ", ".join(sorted(self.fleet.by_id)[:20])
            raise UnknownEndpoint(f"no endpoint {endpoint_id!r}; known: {known}")
        return self.decisions[endpoint.pool]

    # -- state --------------------------------------------------------------------------------------------

    async def save_regularly(self) -> None:
        """Save about once a second, off the loop's thread."""
        while not await happened(self.stopping, SAVE_EVERY_S):
            if self.ready:
                encode = keeping.encoding(self)
                await asyncio.get_running_loop().run_in_executor(self.disk, keeping.write, self, encode)

    def save(self) -> None:
        """Save now."""
        if self.ready:
            keeping.write(self, keeping.encoding(self))


def everyone_heard(view: SignalView) -> bool:
    """Every endpoint has answered, or is known not to: a first decision has something to stand on."""
    if not view.ids:
        return False
    loaded = view.freshness(Signal.RUNNING) == Freshness.FRESH
    silent = (view.values[Signal.PROBE_REFUSALS] >= 1) | (view.values[Signal.PROBE_TIMEOUTS] >= 1)
    return bool(np.all(loaded | silent))


async def happened(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether `event` was set within `timeout_s`."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
