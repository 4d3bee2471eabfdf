"""Shares of traffic from counters."""

from __future__ import annotations

import pytest

from gpuxds.cli.demo.gauge import KEEP_S, Gauge


def test_shares_are_of_new_requests_in_the_window() -> None:
    gauge = Gauge()
    for at, a, b in ((0, 100, 0), (1, 110, 30), (2, 120, 60)):
        gauge.add(float(at), {"a": a, "b": b})
    assert gauge.shares(0, 2) == pytest.approx({"a": 0.25, "b": 0.75})
    assert gauge.issued(1, 2) == {"a": 10, "b": 30}


def test_a_host_that_left_or_came_back_counts_what_it_was_sent() -> None:
    gauge = Gauge()
    gauge.add(0.0, {"a": 50})
    gauge.add(1.0, {"a": 55, "b": 3})
    gauge.add(2.0, {"b": 4})
    gauge.add(3.0, {"a": 2, "b": 4})
    assert gauge.issued(0, 3) == {"a": 7, "b": 4}


def test_nothing_sent_is_no_share_and_old_samples_are_dropped() -> None:
    gauge = Gauge()
    gauge.add(0.0, {"a": 1})
    assert gauge.shares(0, 10) == {}
    gauge.add(KEEP_S + 1, {"a": 1})
    assert len(gauge.samples) == 1
