"""The demo's story: four things that happen to a fleet, each with the figures that prove what followed.

A step acts, waits for what should follow with a deadline, and gives a verdict. Nothing is assumed: shares
come from Envoy's counters, failures from the client, weights from Envoy's own table.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gpuxds.cli.demo.gauge import Gauge
from gpuxds.cli.demo.stage import Stage
from gpuxds.simulator.load import Load

STEP_S = 0.25
FALLS_TO = 0.7
"""A GPU at half speed keeps less than this part of its share."""
DEAD_BAND = 0.2
IN_SYNC_S = 2.0
RAMP_S = 16.0
"""Longer than the policy's ramp, after which no weight moves for an endpoint that just came back."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step showed."""

    step: str
    ok: bool
    figures: str


@dataclass(slots=True)
class Watch:
    """What is known right now; the screen draws it, the story waits on it."""

    stage: Stage
    load: Load
    now: Callable[[], float]
    gauge: Gauge = field(default_factory=Gauge)
    answer: dict[str, Any] | None = None
    """The control plane's last answer; None while it is down."""
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)

    async def look(self) -> None:
        """One look at the control plane and at Envoy."""
        self.answer = await self.stage.ask("/api/v1/endpoints")
        self.hosts = await self.stage.hosts()
        self.gauge.add(self.now(), {name: host["requests"] for name, host in self.hosts.items()})

    async def look_on(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.stage.processes.check()
            with contextlib.suppress(aiohttp.ClientError):
                await self.look()
            await asyncio.sleep(STEP_S)

    def share(self, name: str, window_s: float) -> float:
        """An endpoint's share of new requests over the last `window_s` seconds."""
        return self.gauge.shares(self.now() - window_s, self.now()).get(name, 0.0)

    def row(self, name: str) -> dict[str, Any] | None:
        """The control plane's row of an endpoint, when it is up."""
        rows = self.answer["endpoints"] if self.answer else []
        return next((row for row in rows if row["id"] == name), None)

    def weights(self) -> dict[str, int]:
        """Weights as Envoy has them."""
        return {name: host["weight"] for name, host in self.hosts.items()}

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> float | None:
        """Seconds until the condition held; None when it did not within the deadline."""
        started = self.now()
        while self.now() - started < deadline_s:
            if condition():
                return self.now() - started
            await asyncio.sleep(STEP_S)
        return None


Step = Callable[[Watch], Awaitable[Verdict]]


async def steady(watch: Watch) -> Verdict:
    """Traffic settles on what the weights ask for."""
    await asyncio.sleep(12)
    shares = watch.gauge.shares(watch.now() - 6, watch.now())
    fastest, slowest = watch.row("h100"), watch.row("l4")
    assert fastest is not None
    assert slowest is not None
    failed = watch.load.window(watch.now() - 12, watch.now()).failed
    text = ", ".join(f"{name} {100 * share:.0f} %" for name, share in sorted(shares.items(), key=lambda kv: -kv[1]))
    ok = shares.get("h100", 0) > shares.get("l4", 0) and fastest["weight"] > slowest["weight"] and failed == 0
    return Verdict("a mixed fleet takes traffic by what it can do", ok, f"{text}; {failed} failed")


async def throttle(watch: Watch) -> Verdict:
    """A GPU that slows down is given less within seconds."""
    before = watch.share("h100", 6)
    await watch.stage.fault("h100", throttle=2.0)
    first_s = await watch.until(lambda: watch.share("h100", 2) < FALLS_TO * before, 5.0)
    await asyncio.sleep(5)
    after = watch.share("h100", 5)
    await watch.stage.fault("h100", throttle=1.0)
    when = f"first seen after {first_s:.1f} s" if first_s is not None else "not seen within 5 s"
    figures = f"share {100 * before:.0f} % → {100 * after:.0f} %, {when}"
    ok = first_s is not None and after < FALLS_TO * before
    return Verdict("h100 runs at half speed: its share falls", ok, figures)


async def drain(watch: Watch) -> Verdict:
    """A drained endpoint gets nothing new, finishes what it has, and leaves."""
    name, started = "a100-80", watch.now()
    await watch.stage.ask(f"/api/v1/endpoints/{name}/drain", {"reason": "demo", "deadline": "60s"})
    await asyncio.sleep(0.1)
    returned = watch.now()
    await watch.look()
    at_return = watch.hosts.get(name, {"requests": 0})["requests"]
    new = 0

    def gone() -> bool:
        nonlocal new
        if name in watch.hosts:
            new = max(new, watch.hosts[name]["requests"] - at_return)
        return name not in watch.hosts

    gone_s = await watch.until(gone, 45.0)
    failed = watch.load.window(started, watch.now()).failed
    await watch.stage.ask(f"/api/v1/endpoints/{name}/undrain", {})
    when = (
        f"left EDS after {gone_s + returned - started:.1f} s" if gone_s is not None else "has not left EDS in 45 s"
    )
    figures = f"{new} new requests after 0.1 s, {when}, {failed} failed"
    return Verdict(f"{name} is drained under load", gone_s is not None and new == 0 and failed == 0, figures)


async def outage(watch: Watch) -> Verdict:
    """a100-80 is given traffic again step by step; then kill -9: without a control plane Envoy goes on."""
    await asyncio.sleep(RAMP_S)
    started = watch.now()
    await watch.stage.kill_control_plane()
    await watch.look()
    before = watch.weights()
    await asyncio.sleep(8)
    window = watch.load.window(started, watch.now())
    same = watch.weights() == before
    served = sum(watch.gauge.issued(started, watch.now()).values())
    figures = f"{served} requests sent, {window.failed} failed, weights {'unchanged' if same else 'CHANGED'}"
    return Verdict("kill -9 of the control plane, 8 s without it", window.failed == 0 and same, figures)


async def recovery(watch: Watch) -> Verdict:
    """A control plane that returns picks up where it was."""
    before, started = watch.weights(), watch.now()
    await watch.stage.start_control_plane()
    up_s = await watch.until(lambda: watch.answer is not None, 10.0)
    synced_s = await until_in_sync(watch, 10.0)
    await watch.look()
    unjustified = {name: change for name, change in moved(watch, before).items() if change > DEAD_BAND}
    failed = watch.load.window(started, watch.now()).failed
    up, synced = (f"{value:.1f} s" if value is not None else "never" for value in (up_s, synced_s))
    kept = "no weight moved beyond its signals" if not unjustified else f"MOVED: {', '.join(unjustified)}"
    figures = f"answers after {up}, all proxies in sync {synced} later, {kept}, {failed} failed"
    ok = up_s is not None and synced_s is not None and synced_s <= IN_SYNC_S and not unjustified and failed == 0
    return Verdict("the control plane comes back from its saved state", ok, figures)


async def until_in_sync(watch: Watch, deadline_s: float) -> float | None:
    """Seconds until every connected proxy, and at least one, has accepted everything."""
    started = watch.now()
    while watch.now() - started < deadline_s:
        answer = await watch.stage.ask("/api/v1/proxies")
        if answer and answer["proxies"] and all(proxy["in_sync"] for proxy in answer["proxies"]):
            return watch.now() - started
        await asyncio.sleep(0.05)
    return None


def moved(watch: Watch, before: dict[str, int]) -> dict[str, float]:
    """By how much each weight moved (|Δ ln|) beyond what fresh signals ask for."""
    found = {}
    for name, weight in watch.weights().items():
        row = watch.row(name)
        if name in before and row is not None:
            asked = abs(math.log(row["wanted"] / before[name]))
            found[name] = abs(math.log(weight / before[name])) - asked
    return found


STORY: tuple[Step, ...] = (steady, throttle, drain, outage, recovery)
