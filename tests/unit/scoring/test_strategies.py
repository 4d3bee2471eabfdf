"""Each strategy a user may name: a table of cases with the reason for each."""

from __future__ import annotations

from typing import Any

import pytest

from support.pools import Pool, policy_for


def settled(
    strategy: str, loads: dict[str, dict[str, float]], gpus: dict[str, str], **endpoint: Any
) -> dict[str, float]:
    """Weights relative to the largest, after one decision on these signals."""
    pool = Pool(policy_for(gpus, strategy, **endpoint))
    for name, signals in loads.items():
        pool.hear([name], **signals)
    decision = pool.decide()
    top = max(decision.wanted.tolist())
    return {
        name: round(weight / top, 4) for name, weight in zip(decision.ids, decision.wanted.tolist(), strict=True)
    }


AB = {"a": "A100-80", "b": "A100-80"}
IDLE: dict[str, float] = {}

CASES = [
    ("full_scan", {"a": {"running": 90}, "b": IDLE}, AB, {"a": 1, "b": 1}, "Envoy sees load itself; weights stay equal"),
    ("round_robin", {"a": {"running": 90}, "b": IDLE}, AB, {"a": 1, "b": 1}, "it takes turns, whatever the load"),
    ("least_connections", {"a": {"running": 90}, "b": IDLE}, AB, {"a": 1, "b": 1}, "Envoy counts connections itself"),
    ("consistent_hash", {"a": {"running": 90}, "b": IDLE}, AB, {"a": 1, "b": 1}, "the key decides, not the load"),
    ("least_load", {"a": {"running": 9, "waiting": 3}, "b": {"running": 9}}, AB, {"a": 0.1, "b": 1}, "b has the lower (running+waiting)/capacity"),
    ("least_load", {"a": {"running": 5}, "b": {"running": 5}}, {"a": "A100-40", "b": "A100-80"}, {"a": 0.1, "b": 1}, "b has more capacity for the same work"),
    ("least_load", {"a": IDLE, "b": IDLE}, {"a": "A100-40", "b": "H100-80"}, {"a": 0.1, "b": 1}, "a tie goes to the most GPU memory"),
    ("least_load", {"a": IDLE, "b": IDLE}, AB, {"a": 1, "b": 1}, "a tie in memory too is shared"),
    ("equal_weighted", {"a": {"requests_total": 999}, "b": {"requests_total": 99}}, AB, {"a": 0.1, "b": 1}, "a served ten times as many in its life"),
    ("equal_weighted", {"a": {"requests_total": 99}, "b": IDLE}, AB, {"a": 1, "b": 1}, "b does not say: it counts as a middling one, not as fresh"),
    ("weighted_round_robin", {"a": IDLE, "b": IDLE}, {"a": "H100-80", "b": "L4"}, {"a": 1, "b": 0.5}, "80 GB is x3.0, 24 GB x1.5"),
    ("weighted_round_robin", {"a": IDLE, "b": IDLE}, {"a": "A100-40", "b": "L4"}, {"a": 1, "b": 0.75}, "40 GB is x2.0, 24 GB x1.5"),
    ("least_response_time", {"a": {"latency_s": 2}, "b": {"latency_s": 1}}, AB, {"a": 0.5, "b": 1}, "inverse latency"),
    ("least_response_time", {"a": IDLE, "b": {"latency_s": 1}}, AB, {"a": 1, "b": 1}, "an unknown latency is the median, not 0"),
    ("peak_ewma", {"a": {"latency_s": 1, "running": 3}, "b": {"latency_s": 1, "running": 1}}, AB, {"a": 0.5, "b": 1}, "latency x (outstanding + 1)"),
    ("peak_ewma", {"a": {"latency_s": 2, "running": 1}, "b": {"latency_s": 1, "running": 1}}, AB, {"a": 0.5, "b": 1}, "same queue, twice the latency"),
    ("agent_score", {"a": {"latency_s": 30, "running": 0}, "b": {"latency_s": 120, "running": 0}}, AB, {"a": 1, "b": 0.9}, "60/120 s is half of the speed part"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "loads", "gpus", "expected", "reason"), CASES, ids=[f"{c[0]}: {c[4]}" for c in CASES]
)
def test_weights_by_strategy(
    strategy: str, loads: dict[str, dict[str, float]], gpus: dict[str, str], expected: dict[str, float], reason: str
) -> None:
    assert settled(strategy, loads, gpus) == pytest.approx(expected, abs=0.002), reason


def test_a_cheap_endpoint_gets_a_bonus_and_an_unknown_price_none() -> None:
    found = settled(
        "weighted_round_robin", {"a": IDLE, "b": IDLE, "c": IDLE},
        {"a": "L4", "b": "L4", "c": "L4"}, price_per_hour={"a": 0.8, "b": 1.5},
    )  # fmt: skip
    assert found == pytest.approx({"a": 1, "b": 1 / 1.2, "c": 1 / 1.2}, abs=0.001)


def test_agent_score_counts_failures_as_proxies_report_them() -> None:
    found = settled(
        "agent_score", {"a": {"proxy_ok": 5, "proxy_errors": 5}, "b": {"proxy_ok": 10, "proxy_errors": 0}}, AB
    )
    assert found["a"] == pytest.approx(0.85, abs=0.01)


def test_thresholds_are_configuration() -> None:
    found = settled("{name: least_load, others_weight: 0.5}", {"a": {"running": 9}, "b": IDLE}, AB)
    assert found == {"a": 0.5, "b": 1.0}
    found = settled(
        "{name: weighted_round_robin, memory_tiers_gb: {20.0: 4.0}}", {"a": IDLE, "b": IDLE}, {"a": "L4", "b": "L4"}
    )
    assert found == {"a": 1.0, "b": 1.0}
