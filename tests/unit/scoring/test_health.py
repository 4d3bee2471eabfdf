"""An endpoint's life, told as stories."""

from __future__ import annotations

import numpy as np
import pytest

from gpuxds.scoring.contract import EnvoyHealth
from gpuxds.scoring.explain import reason
from gpuxds.scoring.memory import from_json, not_after, realign, to_json
from gpuxds.signals.model import Signal
from support.pools import Pool, policy_for

HEALTHY, UNHEALTHY, DRAINING = EnvoyHealth.HEALTHY, EnvoyHealth.UNHEALTHY, EnvoyHealth.DRAINING


def four(extra: str = "") -> Pool:
    pool = Pool(policy_for(dict.fromkeys("abcd", "A100-80"), extra=extra))
    pool.steady(20)
    return pool


@pytest.mark.parametrize(("port_answers", "health"), [(True, "serving"), (False, "suspect")])
def test_silence_alone_leaves_an_endpoint_in_service(port_answers: bool, health: str) -> None:
    pool = four()
    for _ in range(30):
        pool.hear(["b", "c", "d"])
        pool.silent(["a"], alive=port_answers)
        pool.decide(1.0)
    assert pool.health()["a"] == health
    assert pool.envoy()["a"] == HEALTHY


def test_one_refused_connection_is_enough_and_is_pushed_at_once() -> None:
    """C81: health does not wait for the interval between weights."""
    pool = four()
    pool.hear(running=50)
    pool.decide(0.1)
    pool.hear(["b", "c", "d"])
    pool.silent(["a"], refused=1)
    decision = pool.decide(0.1)
    assert pool.health()["a"] == "failed"
    assert pool.envoy()["a"] == UNHEALTHY
    assert decision.push
    assert decision.push_reason == "health"


def test_timeouts_must_come_twice_in_a_row() -> None:
    pool = four()
    pool.silent(["a"], timeouts=1)
    pool.decide(1.0)
    assert pool.envoy()["a"] == HEALTHY
    pool.silent(["a"], timeouts=2)
    pool.decide(1.0)
    assert pool.health()["a"] == "failed"


def test_half_a_fleet_that_refuses_is_taken_out_since_that_is_no_judgement() -> None:
    pool = four()
    pool.hear(["c", "d"])
    pool.silent(["a", "b"], refused=1)
    pool.decide(1.0)
    assert pool.envoy() == {"a": UNHEALTHY, "b": UNHEALTHY, "c": HEALTHY, "d": HEALTHY}


def test_judgement_takes_out_at_most_its_share_of_the_pool_and_says_so() -> None:
    pool = Pool(policy_for({f"e{i}": "A100-80" for i in range(10)}))
    pool.steady(3)
    pool.hear()
    pool.hear([f"e{i}" for i in range(6)], xid_out=79)
    decision = pool.decide(1.0)
    assert sum(health == UNHEALTHY for health in pool.envoy().values()) == 3
    assert any("max_ejected_percent (3 of 10)" in alarm for alarm in decision.alarms)


def test_a_fatal_xid_quarantines_and_the_reason_names_it() -> None:
    pool = four()
    pool.hear()
    pool.hear(["b"], xid_out=79)
    pool.decide(1.0)
    assert pool.health()["b"] == "quarantined"
    assert "XID 79" in reason(pool.last, 1)


def test_an_xid_that_asks_for_a_drain_lets_requests_finish() -> None:
    pool = four()
    pool.hear(running=3)
    pool.hear(["b"], running=3, xid_drain=63)
    pool.decide(1.0)
    assert pool.envoy()["b"] == DRAINING
    pool.hear()
    pool.hear(["b"], running=0, xid_drain=63)
    pool.decide(1.0)
    assert "b" not in pool.envoy()


def test_failed_requests_in_a_row_take_an_endpoint_out_for_a_while() -> None:
    pool = four()
    pool.hear()
    pool.hear(["a"], proxy_error_streak=3)
    pool.decide(1.0)
    assert pool.health()["a"] == "failed"
    pool.steady(12)
    assert pool.health()["a"] == "serving"


def test_an_endpoint_that_comes_back_is_given_traffic_step_by_step() -> None:
    pool = four()
    full = pool.weights()["a"]
    pool.silent(["a"], refused=1)
    pool.decide(1.0)
    pool.hear()
    pool.decide(1.0)
    assert pool.envoy()["a"] == HEALTHY
    assert pool.weights()["a"] <= 0.06 * full
    seen = []
    for _ in range(17):
        pool.hear()
        pool.decide(1.0)
        seen.append(pool.wanted()["a"])
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(full, rel=0.2)


def test_a_fleet_that_starts_together_is_not_ramped() -> None:
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80"}))
    pool.hear()
    pool.decide()
    assert len(set(pool.weights().values())) == 1


def test_a_newcomer_is_warming_until_it_answers() -> None:
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80"}))
    pool.hear(["a"])
    pool.decide()
    assert pool.health() == {"a": "serving", "b": "warming"}
    assert pool.envoy() == {"a": HEALTHY, "b": UNHEALTHY}


def test_when_nobody_was_ever_heard_everybody_serves() -> None:
    """Our own blindness at the start takes nobody out."""
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80"}))
    pool.decide()
    assert set(pool.envoy().values()) == {HEALTHY}


def test_many_that_fall_silent_at_once_freeze_the_pool_and_raise_an_alarm() -> None:
    pool = four()
    before = pool.weights()
    for _ in range(60):
        pool.silent(["a", "b", "c"], timeouts=9)
        pool.hear(["d"], running=90)
        decision = pool.decide(1.0)
        assert decision.frozen
        assert decision.alarms
        assert pool.weights() == before
        assert set(pool.envoy().values()) == {HEALTHY}
    pool.hear()
    assert not pool.decide(1.0).frozen


def test_one_that_falls_silent_long_after_another_does_not_freeze_the_pool() -> None:
    pool = Pool(policy_for(dict.fromkeys("abcd", "A100-80")))
    pool.steady(5)
    for second in range(60):
        pool.hear(["c", "d"])
        pool.silent(["a"], alive=True)
        if second < 30:
            pool.hear(["b"])
        else:
            pool.silent(["b"], alive=True)
        assert not pool.decide(1.0).frozen


def test_a_drain_ends_when_nothing_is_in_flight_on_data_newer_than_it() -> None:
    pool = four()
    pool.drain("a")
    pool.decide(0.1)
    assert pool.envoy()["a"] == DRAINING
    assert pool.last.push_reason == "health"
    pool.hear(running=2)
    pool.decide(1.0)
    assert pool.envoy()["a"] == DRAINING
    pool.hear()
    decision = pool.decide(1.0)
    assert pool.health()["a"] == "drained"
    assert "a" not in pool.envoy()
    assert decision.push_reason == "membership"


def test_a_drain_waits_for_what_proxies_still_have_in_flight() -> None:
    pool = four()
    pool.drain("a")
    pool.hear(running=0, proxy_active=1)
    pool.decide(1.0)
    assert pool.health()["a"] == "draining"


def test_a_drain_ends_at_its_deadline_whatever_runs() -> None:
    pool = four()
    pool.drain("a", deadline_s=5)
    for _ in range(4):
        pool.hear(running=9)
        pool.decide(1.0)
        assert pool.health()["a"] == "draining"
    pool.hear(running=9)
    pool.decide(1.5)
    assert pool.health()["a"] == "drained"


def test_undraining_brings_back_with_a_ramp() -> None:
    pool = four()
    pool.drain("a")
    pool.hear()
    pool.decide(1.0)
    pool.hear()
    pool.decide(1.0)
    assert "a" not in pool.envoy()
    pool.drains.clear()
    pool.hear()
    pool.decide(1.0)
    assert pool.envoy()["a"] == HEALTHY
    assert pool.weights()["a"] < 0.1 * pool.weights()["b"]


def test_an_unhealthy_endpoint_that_is_drained_stays_unhealthy_for_envoy() -> None:
    """Envoy does not re-evaluate UNHEALTHY to DRAINING; the other way round it does."""
    pool = four()
    pool.hear(xid_out=0)
    pool.hear(["a"], xid_out=79, running=3)
    pool.decide(1.0)
    pool.drain("a")
    pool.hear(["a"], xid_out=79, running=3)
    pool.decide(1.0)
    assert pool.health()["a"] == "draining"
    assert pool.envoy()["a"] == UNHEALTHY


def test_a_blind_endpoint_relaxes_to_its_baseline_over_the_stated_time() -> None:
    gpus = {"a": "A100-80", "b": "A100-80", "c": "L40S"}
    pool = Pool(policy_for(gpus, extra="signals: {relax_over: 10s}\n"))
    for _ in range(60):
        pool.hear(running=20)
        pool.hear(["a"], running=90)
        pool.decide(1.0)
    assert pool.wanted()["a"] < 0.6 * pool.wanted()["b"]
    ratios = []
    for _ in range(16):
        pool.silent(["a"], alive=True)
        pool.hear(["b", "c"], running=20)
        pool.decide(1.0)
        ratios.append(float(pool.last.relaxation[0]))
    assert ratios[0] == 0
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1
    correction = next(term for term in pool.last.terms if term.name == "correction")
    assert correction.values[0] == 1, "what was learnt no longer counts"


def test_a_steadily_changing_pool_is_still_pushed_at_the_stated_pace() -> None:
    """C80: at most once per interval, and at least as soon as it allows."""
    pool = Pool(policy_for({"a": "A100-80", "b": "A100-80", "c": "L4"}))
    pool.steady(20)
    pushes = []
    for step in range(100):
        pool.hear()
        pool.hear(["a"], running=100 if step // 20 % 2 else 0, waiting=80 if step // 20 % 2 else 0)
        if pool.decide(0.1).push:
            pushes.append(pool.now)
    gaps = np.diff(pushes)
    assert len(pushes) >= 2
    assert (gaps >= pool.policy.weights.min_interval - 1e-6).all()


def test_memory_survives_a_restart_bit_for_bit_and_decides_the_same() -> None:
    pool, twin = four(), four()
    pool.steady(30, running=17)
    twin.steady(30, running=17)
    twin.memory = from_json(__import__("json").loads(__import__("json").dumps(to_json(twin.memory))))
    pool.hear(running=3)
    twin.hear(running=3)
    assert pool.decide(1.0).wanted.tobytes() == twin.decide(1.0).wanted.tobytes()
    assert pool.last.health.tobytes() == twin.last.health.tobytes()


def test_a_clock_that_was_set_back_over_a_restart_keeps_nobody_waiting() -> None:
    pool = four()
    pool.silent(["a"], refused=1)
    pool.decide(1.0)
    pool.now -= 3600
    pool.memory = not_after(pool.memory, pool.now)
    pool.store = type(pool.store)(pool.store.rules)
    pool.store.sync(pool.facts.ids)
    pool.hear()
    pool.decide(1.0)
    assert pool.envoy()["a"] == HEALTHY


def test_memory_follows_endpoints_that_come_and_go() -> None:
    pool = four()
    moved = realign(pool.memory, ("d", "new", "a"))
    where = {name: row for row, name in enumerate(pool.memory.ids)}
    assert moved.weights.tolist() == [pool.memory.weights[where["d"]], 0, pool.memory.weights[where["a"]]]


def test_probes_and_proxies_are_read_from_the_columns_they_are_written_to() -> None:
    pool = four()
    pool.silent(["a"], refused=2)
    assert pool.view().value(Signal.PROBE_REFUSALS)[0] == 2


def test_an_xid_drain_holds_while_nobody_can_tell_and_ends_when_the_page_clears_it() -> None:
    """After a restart the code stands on the page, and whether it is new is not known."""
    pool = four()
    pool.hear(running=3)
    pool.hear(["b"], running=3, xid_drain=94)
    pool.decide(1.0)
    assert pool.envoy()["b"] == DRAINING
    pool.store = type(pool.store)(pool.store.rules)
    pool.store.sync(pool.facts.ids)
    pool.hear(running=3)
    pool.decide(1.0)
    assert pool.envoy()["b"] == DRAINING
    pool.hear(running=3, xid_drain=0)
    pool.decide(1.0)
    assert pool.envoy()["b"] == HEALTHY


def test_a_scraped_endpoint_is_not_lost_when_its_agent_stops() -> None:
    pool = Pool(policy_for({"a": "L4", "b": "L4", "c": "L4"}))
    pool.hear((), heartbeat=1.0)
    pool.steady(100)
    assert set(pool.health().values()) == {"serving"}


def test_an_endpoint_whose_page_fails_lives_by_its_heartbeats() -> None:
    pool = Pool(policy_for({"a": "L4", "b": "L4", "c": "L4"}))
    pool.hear()
    pool.decide()
    pool.store.add("a", Signal.SCRAPE_FAILURES, pool.now)
    pool.hear(["b", "c"])
    pool.store.record("a", {Signal.HEARTBEAT: 1.0, Signal.RUNNING: 5.0, Signal.WAITING: 0.0}, pool.now)
    pool.now += 15
    pool.hear(["b", "c"])
    decision = pool.decide()
    assert decision.relaxation[decision.ids.index("a")] == 0, "15 s are not stale for heartbeats"
    for _ in range(5):
        pool.now += 10
        pool.hear(["b", "c"])
        pool.decide()
    assert pool.health() == {"a": "failed", "b": "serving", "c": "serving"}
