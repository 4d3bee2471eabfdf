"""Pools, signals and decisions made up for tests of scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuxds.policy.build import endpoints as policy_endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.scoring.contract import Drain, Health, PoolDecision, PoolMemory
from gpuxds.scoring.facts import PoolFacts, facts_of
from gpuxds.scoring.pipeline import decide
from gpuxds.scoring.tokens import token_means
from gpuxds.signals.model import Signal, SignalView
from gpuxds.signals.store import Store, rules_of

START = 1_700_000_000.0
MOMENT_S = 0.01
"""What is heard comes a moment after the decision before it."""


def policy_for(gpus: Mapping[str, str], strategy: str = "gpu_aware", extra: str = "", **endpoint: Any) -> Policy:
    """One pool of these endpoints: id -> GPU model. `endpoint` holds further fields by name: {id: value}."""
    lines = ["version: 1", "pools:", "  - name: p", f"    strategy: {strategy}", "    endpoints:"]
    for index, (name, gpu) in enumerate(gpus.items()):
        parts = [f"id: {name}", f"address: '10.0.0.{index + 1}:8000'", f"gpu: {{model: {gpu}}}"]
        parts += [f"{key}: {values[name]}" for key, values in endpoint.items() if name in values]
        lines.append(f"      - {{{', '.join(parts)}}}")
    return load_text("\n".join(lines) + "\n" + extra, "test.yaml").policy


@dataclass
class Pool:
    """A pool that is decided over again and again, with a clock that only moves when told to."""

    policy: Policy
    now: float = START
    memory: PoolMemory = field(default_factory=PoolMemory)
    drains: dict[str, Drain] = field(default_factory=dict)
    proxies: int = 1
    store: Store = field(init=False)
    facts: PoolFacts = field(init=False)
    last: PoolDecision = field(init=False)

    def __post_init__(self) -> None:
        pool = self.policy.pools[0]
        self.facts = facts_of(pool, policy_endpoints(self.policy), self.policy.gpu_models)
        self.store = Store(rules_of(self.policy.signals))
        self.store.sync(self.facts.ids)

    def hear(self, names: Sequence[str] = (), **signals: float) -> None:
        """These endpoints (default: all) answered now, with these signals on top of an idle engine's."""
        self.now += MOMENT_S
        idle = {"running": 0.0, "waiting": 0.0, "answered": 1.0, "scrape_failures": 0.0}
        alive = {"probe_refusals": 0.0, "probe_timeouts": 0.0}
        for name in names or self.facts.ids:
            values = {Signal[key.upper()]: value for key, value in (idle | alive | signals).items()}
            self.store.record(name, values, self.now)

    def silent(
        self, names: Sequence[str] = (), *, refused: int = 0, timeouts: int = 0, alive: bool = False
    ) -> None:
        """The metric pages of these endpoints failed now, and their probes said so much."""
        self.now += MOMENT_S
        for name in names or self.facts.ids:
            self.store.add(name, Signal.SCRAPE_FAILURES, self.now)
            if alive:
                self.store.record(name, {Signal.ANSWERED: 1.0}, self.now)
            if refused:
                self.store.record(name, {Signal.PROBE_REFUSALS: float(refused)}, self.now)
            if timeouts:
                self.store.record(name, {Signal.PROBE_TIMEOUTS: float(timeouts)}, self.now)

    def view(self) -> SignalView:
        """What is known now."""
        return self.store.view(self.facts.ids, self.now)

    def decide(self, after_s: float = 0.0) -> PoolDecision:
        """The next decision, `after_s` later."""
        self.now += after_s
        view = self.view()
        self.last = decide(
            self.policy, self.policy.pools[0], self.facts, view, self.memory, self.drains, self.proxies, self.now,
            token_means(view),
        )  # fmt: skip
        self.memory = self.last.memory
        return self.last

    def steady(self, seconds: int, **signals: float) -> PoolDecision:
        """Everybody answers once a second for a while."""
        for _ in range(seconds):
            self.hear((), **signals)
            self.decide(1.0)
        return self.last

    def weights(self) -> dict[str, int]:
        """Weights in force."""
        return dict(zip(self.last.ids, self.last.weights.tolist(), strict=True))

    def wanted(self) -> dict[str, int]:
        """Weights the signals ask for."""
        return dict(zip(self.last.ids, self.last.wanted.tolist(), strict=True))

    def health(self) -> dict[str, str]:
        """Health by name."""
        return {i: Health(h).name.lower() for i, h in zip(self.last.ids, self.last.health.tolist(), strict=True)}

    def envoy(self) -> dict[str, int]:
        """EnvoyHealth by id, endpoints in EDS only."""
        rows = zip(self.last.ids, self.last.envoy_health.tolist(), self.last.in_eds.tolist(), strict=True)
        return {i: h for i, h, kept in rows if kept}

    def drain(self, name: str, deadline_s: float = 600.0) -> None:
        """Ask for a drain."""
        self.drains[name] = Drain(name, self.now, self.now + deadline_s, "test", "operator")


def shares(weights: Mapping[str, int]) -> dict[str, float]:
    """Weights as shares of their sum."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def log_change(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The largest |Δ ln weight|."""
    return max(abs(float(np.log(after[name] / before[name]))) for name in before)
