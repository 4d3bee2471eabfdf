"""What holds for every strategy and any signals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuxds.policy.strategies import NAMES
from gpuxds.scoring.contract import EnvoyHealth
from gpuxds.signals.model import Signal
from support.pools import Pool, log_change, policy_for

GPUS = ("H100-80", "A100-80", "A100-40", "L40S", "L4")
strategies_ = st.sampled_from(NAMES)
number = st.one_of(st.floats(0, 1e4), st.sampled_from([math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300, 5e-324]))
page = st.dictionaries(st.sampled_from([s for s in Signal if s < Signal.ANSWERED]), number, max_size=12)
fleets = st.lists(st.tuples(st.sampled_from(GPUS), page, st.floats(0, 200)), min_size=1, max_size=6)


def heard(
    strategy: str, fleet: list[tuple[str, dict[Signal, float], float]], order: list[int] | None = None
) -> Pool:
    """A pool that heard each endpoint's page that many seconds ago."""
    rows = [fleet[index] for index in order or range(len(fleet))]
    names = [f"e{index}" for index in order or range(len(fleet))]
    pool = Pool(policy_for(dict(zip(names, (gpu for gpu, _, _ in rows), strict=True)), strategy))
    for name, (_, signals, age) in zip(names, rows, strict=True):
        pool.store.record(name, signals | {Signal.ANSWERED: 1.0}, pool.now - age)
    pool.decide()
    return pool


@settings(max_examples=200, deadline=None)
@given(strategies_, fleets)
def test_weights_are_integers_from_1_to_the_scale_whatever_the_signals_say(
    strategy: str, fleet: list[object]
) -> None:
    pool = heard(strategy, fleet)  # type: ignore[arg-type]
    for weights in (pool.last.weights, pool.last.wanted):
        assert weights.dtype == np.int64
        assert weights.min() >= 1
        assert weights.max() <= pool.policy.weights.scale
        assert weights.sum() < 2**32


@settings(max_examples=200, deadline=None)
@given(strategies_, fleets, st.randoms(use_true_random=False))
def test_permuting_endpoints_permutes_weights(strategy: str, fleet: list[object], rng: object) -> None:
    order = list(range(len(fleet)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    one, other = heard(strategy, fleet), heard(strategy, fleet, order)  # type: ignore[arg-type]
    for name, weight in one.wanted().items():
        assert other.wanted()[name] == pytest.approx(weight, abs=2, rel=1e-6)
    assert one.health() == other.health()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([name for name in NAMES if name != "gpu_aware"]),
    st.lists(st.sampled_from(GPUS), min_size=2, max_size=5),
    st.integers(0, 200),
    st.integers(1, 200),
    st.integers(0, 100),
)
def test_more_load_never_gives_a_larger_share(
    strategy: str, gpus: list[str], load: int, more: int, waiting: int
) -> None:
    """Not of `gpu_aware`: load anywhere makes its pool fuller, and a fuller pool prefers fast GPUs less."""

    def share_of_first(running: int) -> float:
        pool = Pool(policy_for({f"e{i}": gpu for i, gpu in enumerate(gpus)}, strategy))
        pool.hear(running=load)
        pool.hear(["e0"], running=running, waiting=waiting)
        pool.decide(0.5)
        weights = pool.wanted()
        return weights["e0"] / sum(weights.values())

    assert share_of_first(load + more) <= share_of_first(load) * (1 + 1e-5) + 1e-6


@settings(max_examples=150, deadline=None)
@given(
    strategies_, st.lists(st.sampled_from(GPUS), min_size=1, max_size=4), st.integers(0, 100), st.integers(1, 100),
    st.integers(0, 60), st.integers(0, 60),
)  # fmt: skip
def test_of_two_like_endpoints_the_one_with_more_load_never_has_more_weight(
    strategy: str, others: list[str], load: int, more: int, waiting: int, more_waiting: int
) -> None:
    gpus = {"a": "A100-80", "b": "A100-80"} | {f"e{i}": gpu for i, gpu in enumerate(others)}
    pool = Pool(policy_for(gpus, strategy))
    for _ in range(5):
        pool.hear(running=20)
        pool.hear(["a"], running=load, waiting=waiting)
        pool.hear(["b"], running=load + more, waiting=waiting + more_waiting)
        pool.decide(1.0)
    assert pool.wanted()["b"] <= pool.wanted()["a"]


@settings(max_examples=60, deadline=None)
@given(strategies_, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=5, max_size=20))
def test_nothing_is_pushed_inside_the_dead_band_and_everything_beyond_it_is_after_the_interval(
    strategy: str, loads: list[tuple[int, int]]
) -> None:
    pool = Pool(policy_for({"a": "H100-80", "b": "L4"}, strategy))
    pool.steady(3)
    at = pool.memory.pushed_at
    for a, b in loads:
        before = pool.weights()
        pool.hear(["a"], running=a)
        pool.hear(["b"], running=b)
        decision = pool.decide(1.0)
        if decision.push:
            assert pool.now - at >= pool.policy.weights.min_interval
            assert log_change(before, pool.weights()) > pool.policy.weights.dead_band
            at = pool.now
        else:
            assert pool.weights() == before
            late = pool.now - at >= pool.policy.weights.min_interval
            assert not late or log_change(before, pool.wanted()) <= pool.policy.weights.dead_band + 1e-9


@settings(max_examples=150, deadline=None)
@given(
    strategies_,
    st.lists(
        st.dictionaries(
            st.sampled_from(["e0", "e1", "e2", "e3"]),
            st.sampled_from(["hear", "timeout", "xid", "errors", "ecc", "silent"]),
        ),
        max_size=15,
    ),
)
def test_judgement_never_takes_the_last_serving_endpoint(strategy: str, story: list[dict[str, str]]) -> None:
    pool = Pool(policy_for({f"e{i}": "A100-80" for i in range(4)}, strategy))
    pool.steady(2)
    for chapter in story:
        for name, what in chapter.items():
            match what:
                case "hear":
                    pool.hear([name])
                case "timeout":
                    pool.silent([name], timeouts=3)
                case "xid":
                    pool.hear([name], xid_out=79)
                case "ecc":
                    pool.hear([name], ecc_fatal=1)
                case "errors":
                    pool.hear([name], proxy_error_streak=9)
                case "silent":
                    pool.silent([name], alive=True)
        pool.decide(1.0)
        assert EnvoyHealth.HEALTHY in pool.envoy().values()


@settings(max_examples=100, deadline=None)
@given(strategies_, st.sampled_from(["running", "waiting", "kv_usage", "latency_s", "requests_total", "ttft_s"]))
def test_absent_never_acts_as_zero(strategy: str, name: str) -> None:
    """An endpoint that says nothing of a signal is a middling one, not the most attractive."""
    pool = Pool(policy_for({f"e{i}": "A100-80" for i in range(3)}, strategy))
    full = {
        "running": 20.0,
        "waiting": 4.0,
        "kv_usage": 0.6,
        "latency_s": 5.0,
        "requests_total": 500.0,
        "ttft_s": 0.8,
    }
    for endpoint in ("e0", "e1", "e2"):
        signals = {key: value for key, value in full.items() if (endpoint, key) != ("e0", name)}
        values = {Signal[key.upper()]: value for key, value in signals.items()} | {Signal.ANSWERED: 1.0}
        pool.store.record(endpoint, values, pool.now)
    pool.decide()
    weights = pool.wanted()
    assert weights["e0"] <= 1.05 * weights["e1"]


@settings(max_examples=50, deadline=None)
@given(strategies_, fleets)
def test_the_same_inputs_give_the_same_decision(strategy: str, fleet: list[object]) -> None:
    """Deterministic replicas: nothing is drawn and no clock is read."""
    one, other = heard(strategy, fleet), heard(strategy, fleet)  # type: ignore[arg-type]
    assert one.last.weights.tobytes() == other.last.weights.tobytes()
    assert one.last.health.tobytes() == other.last.health.tobytes()
