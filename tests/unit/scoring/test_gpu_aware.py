"""The default law, factor by factor and as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from gpuxds.scoring.explain import explain
from support.pools import Pool, policy_for, shares

FLEET = {"h100": "H100-80", "a100": "A100-80", "l40s": "L40S", "l4": "L4"}


def term(pool: Pool, name: str) -> dict[str, float]:
    found = next(term for term in pool.last.terms if term.name == name)
    return dict(zip(pool.last.ids, found.values.tolist(), strict=True))


def test_an_idle_mixed_fleet_prefers_fast_gpus_beyond_their_capacity_and_a_busy_one_does_not() -> None:
    pool = Pool(policy_for(FLEET))
    pool.steady(30, running=0)
    idle = shares(pool.wanted())
    busy_pool = Pool(policy_for(FLEET))
    busy_pool.steady(60, running=100)
    busy = shares(busy_pool.wanted())
    assert idle["h100"] > idle["a100"] > idle["l40s"] > idle["l4"]
    assert idle["h100"] > busy["h100"]
    assert busy["l4"] > idle["l4"]


def test_a_clock_that_the_hardware_says_is_slowed_halves_speed_at_once() -> None:
    pool = Pool(policy_for(FLEET))
    pool.steady(5, running=2)
    before = shares(pool.wanted())
    for _ in range(3):
        pool.hear(running=2)
        pool.hear(["h100"], running=2, throttle_bits=0x40, sm_clock_ratio=0.5)
        pool.decide(1.0)
    assert shares(pool.wanted())["h100"] < 0.7 * before["h100"]


def test_an_idle_clock_without_a_slowdown_bit_says_nothing() -> None:
    pool, same = Pool(policy_for(FLEET)), Pool(policy_for(FLEET))
    for _ in range(3):
        pool.hear(sm_clock_ratio=0.2, throttle_bits=0x1)
        pool.decide(1.0)
        same.hear()
        same.decide(1.0)
    assert pool.wanted() == same.wanted()


def test_a_slowdown_that_no_hardware_signal_explains_is_learnt_and_forgotten() -> None:
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80", "c": "L40S"}))
    for _ in range(60):
        pool.hear(running=20)
        pool.hear(["a"], running=90)
        pool.decide(1.0)
    assert term(pool, "correction")["a"] < 0.6 * term(pool, "correction")["b"]
    assert pool.wanted()["a"] < 0.6 * pool.wanted()["b"]
    pool.steady(600, running=20)
    assert term(pool, "correction")["a"] == pytest.approx(term(pool, "correction")["b"], rel=0.1)


def test_queued_prefill_lowers_a_weight() -> None:
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80", "c": "L40S"}))
    pool.hear()
    pool.hear(["a"], running=10, waiting=30)
    pool.hear(["b"], running=10)
    pool.decide(1.0)
    assert term(pool, "backlog")["a"] < term(pool, "backlog")["b"]


def test_a_quiet_homogeneous_fleet_has_one_weight_so_that_envoy_scans_all() -> None:
    pool = Pool(policy_for(dict.fromkeys("abcd", "H100-80")))
    pool.steady(10, running=5)
    assert len(set(pool.wanted().values())) == 1
    assert pool.last.equal


def test_an_unknown_gpu_is_judged_by_its_memory() -> None:
    extra = (
        "gpu_models:\n  B999: {memory_gb: 192, step_s: 0.004, step_per_sequence_s: 0.00005, "
        "prefill_tokens_per_s: 60000, kv_tokens: 1000000}\n"
    )
    pool = Pool(policy_for({"big": "B999", "h100": "H100-80"}, extra=extra))
    pool.steady(5)
    assert pool.wanted()["big"] > pool.wanted()["h100"]


def test_the_factors_multiply_out_to_the_weight() -> None:
    pool = Pool(policy_for(FLEET))
    pool.steady(20, running=7, waiting=1)
    rows = explain(pool.last)
    products = np.array([np.prod([term.value for term in row.terms]) for row in rows])
    assert products == pytest.approx([row.product for row in rows])
    weights = np.array([row.wanted for row in rows])
    assert weights / weights.max() == pytest.approx(products / products.max(), abs=2e-6)
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_every_input_of_an_explanation_has_its_age() -> None:
    pool = Pool(policy_for(FLEET))
    pool.hear(running=3)
    pool.decide(2.5)
    row = explain(pool.last)[0]
    ages = {item.name: item.age_s for item in row.inputs}
    assert ages["running"] == pytest.approx(2.5)
    absent = {item.name for item in row.inputs if item.freshness == "absent"}
    assert "kv_usage" in absent
