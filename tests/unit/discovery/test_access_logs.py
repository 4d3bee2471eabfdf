"""Access logs become latencies per endpoint."""

from __future__ import annotations

import math

import pytest

from gpuxds.discovery.access_logs import boiled_down
from gpuxds.engine.loads import Timings
from gpuxds.policy.model import SignalsSpec
from gpuxds.signals.model import Signal
from gpuxds.signals.store import Store, rules_of
from gpuxds.wire import xds_pb2 as pb

KEY = ("p", ("10.0.0.1", 8000))


def batch(*entries: tuple[float, float, int, int], cluster: str = "p", ip: str = "10.0.0.1") -> bytes:
    """Entries of (latency, time to first byte, status, tries)."""
    message = pb.StreamAccessLogsMessage()
    for latency_s, ttfb_s, status, tries in entries:
        entry = message.http_logs.log_entry.add()
        common = entry.common_properties
        common.upstream_cluster, common.upstream_request_attempt_count = cluster, tries
        if ip:
            common.upstream_remote_address.socket_address.address = ip
            common.upstream_remote_address.socket_address.port_value = 8000
        common.duration.FromNanoseconds(int(latency_s * 1e9))
        common.time_to_first_upstream_rx_byte.FromNanoseconds(int(ttfb_s * 1e9))
        entry.response.response_code.value = status
    return message.SerializeToString()


def read(content: bytes) -> pb.StreamAccessLogsMessage:
    return pb.StreamAccessLogsMessage.FromString(content)


def test_a_batch_is_one_sum_per_endpoint() -> None:
    (served,) = boiled_down(read(batch((2.0, 0.5, 200, 1), (4.0, 1.5, 200, 3)))).values()
    assert (served.count, served.latency_s, served.ttfb_s, served.last_s, served.retries) == (2, 6.0, 2.0, 4.0, 2)


def test_a_failure_that_comes_fast_is_not_speed() -> None:
    (served,) = boiled_down(read(batch((2.0, 0.5, 200, 1), (0.001, 0.001, 503, 1), (0.002, 0.0, 0, 1)))).values()
    assert (served.count, served.latency_s) == (1, 2.0)


def test_requests_that_reached_nobody_are_left_out_and_slices_count_for_their_pool() -> None:
    assert boiled_down(read(batch((2.0, 0.5, 503, 1), ip=""))) == {}
    assert list(boiled_down(read(batch((2.0, 0.5, 200, 1), cluster="p/large")))) == [KEY]


def test_latency_is_a_signal_with_an_age_and_retries_add_up() -> None:
    store, timings = Store(rules_of(SignalsSpec())), Timings()
    store.sync(["a"])
    for at, latency_s in ((100.0, 1.0), (101.0, 3.0), (102.0, 1.0)):
        timings.take(store, {KEY: "a"}, boiled_down(read(batch((latency_s, 0.1, 200, 2)))), 5.0, at)
    view = store.view(("a",), 103.0)
    assert 1.0 < view.fresh(Signal.PROXY_LATENCY_S)[0] < 3.0, "a peak is remembered and forgotten slowly"
    assert view.fresh(Signal.PROXY_TTFB_S)[0] == pytest.approx(0.1)
    assert view.fresh(Signal.PROXY_LAST_S)[0] == 1.0
    assert view.fresh(Signal.PROXY_RETRIES)[0] == 3
    assert math.isnan(store.view(("a",), 108.0).fresh(Signal.PROXY_LATENCY_S)[0]), "it stays fresh for ever"


def test_endpoints_that_left_are_forgotten() -> None:
    store, timings = Store(rules_of(SignalsSpec())), Timings()
    timings.take(store, {KEY: "a"}, boiled_down(read(batch((1.0, 0.1, 200, 2)))), 5.0, 100.0)
    timings.forget(set())
    assert not timings.latency_s
    assert not timings.retries
