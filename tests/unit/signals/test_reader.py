"""From pages to signals: gauges, counters between pages, histograms between pages."""

from __future__ import annotations

import pytest

from gpuxds.errors import SignalError
from gpuxds.policy.model import SignalsSpec
from gpuxds.signals.ewma import Ewma, observe
from gpuxds.signals.model import Freshness, Signal
from gpuxds.signals.presets import presets
from gpuxds.signals.presets.dcgm import GpuReader
from gpuxds.signals.reader import PageReader
from gpuxds.signals.store import LARGEST, Store, rules_of
from support.pages import dcgm_page, vllm_page

V = "vllm:"


def page(**values: float) -> bytes:
    """A page of bare series; `__` stands for the colon."""
    base = {"num_requests_running": 1.0, "num_requests_waiting": 0.0} | values
    return "\n".join(f'{V}{name}{{engine="0"}} {value}' for name, value in base.items()).encode() + b"\n"


def reader() -> PageReader:
    return PageReader(presets()["vllm"], ewma_s=5.0)


def test_gauges_of_several_engines_add_up_and_kv_usage_is_the_fullest() -> None:
    text = b"".join(
        f'{V}num_requests_running{{engine="{n}"}} {r}\n{V}num_requests_waiting{{engine="{n}"}} 1\n'
        f'{V}kv_cache_usage_perc{{engine="{n}"}} {k}\n'.encode()
        for n, r, k in ((0, 3, 0.2), (1, 4, 0.9))
    )
    found = reader().read(text, 100.0)
    assert (found[Signal.RUNNING], found[Signal.WAITING], found[Signal.KV_USAGE]) == (7, 2, 0.9)


def test_kv_capacity_is_blocks_times_their_size() -> None:
    text = page() + b'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1\n'
    assert reader().read(text, 1.0)[Signal.KV_CAPACITY_TOKENS] == 16_000


def test_a_rate_needs_two_pages_and_time_between_them() -> None:
    one = reader()
    assert Signal.OUTPUT_TOKENS_RATE not in one.read(page(generation_tokens_total=100), 100.0)
    assert one.read(page(generation_tokens_total=300), 102.0)[Signal.OUTPUT_TOKENS_RATE] == 100


def test_a_counter_that_fell_was_restarted_and_counts_from_zero() -> None:
    one = reader()
    one.read(page(generation_tokens_total=1_000_000), 100.0)
    assert one.read(page(generation_tokens_total=50), 101.0)[Signal.OUTPUT_TOKENS_RATE] == 50


def test_a_series_that_appears_later_counts_from_zero_and_one_that_was_there_first_from_its_value() -> None:
    one = reader()
    one.read(page() + b'vllm:request_success_total{finished_reason="stop"} 500\n', 100.0)
    both = b"".join(
        b'vllm:request_success_total{finished_reason="%s"} %d\n' % (why, count)
        for why, count in ((b"stop", 500), (b"length", 4))
    )
    assert one.read(page() + both, 101.0)[Signal.REQUEST_RATE] == 4


def test_a_histogram_is_the_mean_of_what_was_observed_between_pages() -> None:
    one = reader()
    one.read(page(time_to_first_token_seconds_sum=100.0, time_to_first_token_seconds_count=1000), 100.0)
    found = one.read(page(time_to_first_token_seconds_sum=103.0, time_to_first_token_seconds_count=1002), 101.0)
    assert found[Signal.TTFT_S] == pytest.approx(1.5)
    quiet = one.read(page(time_to_first_token_seconds_sum=103.0, time_to_first_token_seconds_count=1002), 102.0)
    assert quiet[Signal.TTFT_S] == pytest.approx(1.5)


def test_the_older_name_is_read_where_the_newer_is_missing() -> None:
    assert reader().read(page(gpu_cache_usage_perc=0.4), 1.0)[Signal.KV_USAGE] == 0.4


def test_a_page_without_engine_series_is_not_an_idle_engine() -> None:
    with pytest.raises(SignalError, match="statistics"):
        reader().read(b"process_cpu_seconds_total 12\n", 1.0)


def test_a_sleeping_engine_is_asleep() -> None:
    states = b'vllm:engine_sleep_state{sleep_state="awake"} 0\nvllm:engine_sleep_state{sleep_state="offloaded"} 1\n'
    text = page() + states
    assert reader().read(text, 1.0)[Signal.ASLEEP] == 1


def test_a_whole_page_gives_every_signal_after_two_readings() -> None:
    one = reader()
    one.read(vllm_page(1), 100.0)
    found = one.read(vllm_page(2, observations=90), 101.0)
    missing = {row.signal for row in presets()["vllm"].rows} - set(found)
    assert missing == {Signal.ASLEEP}


def test_an_average_jumps_to_a_peak_and_comes_back_slowly() -> None:
    peak = observe(Ewma(1.0, 0.0), 10.0, 1.0, tau_s=5.0, peak=True)
    assert peak == Ewma(10.0, 1.0)
    assert peak is not None
    after = peak.observe(1.0, 2.0, tau_s=5.0, peak=True)
    assert 8 < after.value < 10
    assert after.observe(5.0, 1.5, 5.0) is after, "what is older changes nothing"
    assert after.observe(float("nan"), 9.0, 5.0) is after


def test_the_past_counts_by_time_and_not_by_how_often_it_was_read() -> None:
    often, once = Ewma(0.0, 0.0), Ewma(0.0, 0.0)
    for step in range(1, 11):
        often = often.observe(1.0, step / 10, 5.0)
    assert often.value == pytest.approx(once.observe(1.0, 1.0, 5.0).value)


OUT, DRAIN = frozenset({79}), frozenset({63})


def gpu(**select: str) -> GpuReader:
    return GpuReader(select, OUT, DRAIN)


def test_gpus_of_an_endpoint_are_picked_by_label_and_blanks_are_not_numbers() -> None:
    both = gpu().read(dcgm_page(), 1.0)
    assert (both[Signal.GPUS_SEEN], both[Signal.GPU_UTIL], both[Signal.POWER_W]) == (2, 0.97, 713.0)
    one = gpu(gpu="1").read(dcgm_page(), 1.0)
    assert one[Signal.GPUS_SEEN] == 1
    assert Signal.GPU_UTIL not in one
    assert gpu(gpu="7").read(dcgm_page(), 1.0)[Signal.GPUS_SEEN] == 0


def test_the_clock_ratio_is_that_of_the_slowest_against_the_highest_seen() -> None:
    one = gpu()
    assert one.read(dcgm_page(), 1.0)[Signal.SM_CLOCK_RATIO] == 1
    assert one.read(dcgm_page(clock=990, reasons=0x40), 2.0)[Signal.SM_CLOCK_RATIO] == 0.5


def test_a_fatal_xid_counts_at_first_sight_is_remembered_and_cleared_by_zero() -> None:
    one = gpu()
    assert one.read(dcgm_page(xid=79), 1.0)[Signal.XID_OUT] == 79
    assert one.read(dcgm_page(xid=13), 2.0)[Signal.XID_OUT] == 79, "a harmless one overwrites it on the page"
    assert one.read(dcgm_page(xid=0), 3.0)[Signal.XID_OUT] == 0


def test_an_xid_that_asks_for_a_drain_counts_when_it_appears_not_when_it_stands_there() -> None:
    one = gpu()
    assert Signal.XID_DRAIN not in one.read(dcgm_page(xid=63), 1.0), "whether it is new is not known"
    assert one.read(dcgm_page(xid=0), 2.0)[Signal.XID_DRAIN] == 0
    other = gpu()
    other.read(dcgm_page(xid=0), 1.0)
    assert other.read(dcgm_page(xid=63), 2.0)[Signal.XID_DRAIN] == 63


def test_applications_xids_change_nothing_and_double_bit_errors_do() -> None:
    found = gpu().read(dcgm_page(xid=31), 1.0)
    assert (found[Signal.XID_OUT], found[Signal.XID_DRAIN], found[Signal.ECC_FATAL]) == (0, 0, 0)
    assert gpu().read(dcgm_page(ecc=1), 1.0)[Signal.ECC_FATAL] == 1


def store() -> Store:
    made = Store(rules_of(SignalsSpec()))
    made.sync(["a", "b"])
    return made


def test_freshness_has_three_values_and_absent_is_never_a_number() -> None:
    made = store()
    made.record("a", {Signal.RUNNING: 5.0}, 100.0)
    states = {now: int(made.view(("a", "b"), now).freshness(Signal.RUNNING)[0]) for now in (101.0, 104.0, 161.0)}
    assert states == {101.0: Freshness.FRESH, 104.0: Freshness.STALE, 161.0: Freshness.ABSENT}
    view = made.view(("a", "b"), 161.0)
    assert view.value(Signal.RUNNING).tolist() == pytest.approx([float("nan")] * 2, nan_ok=True)
    assert made.view(("a", "b"), 104.0).fresh(Signal.RUNNING)[0] != 5.0
    assert made.view(("a", "b"), 104.0).value(Signal.RUNNING)[0] == 5.0


def test_each_source_has_its_own_cadence() -> None:
    made = store()
    made.record("a", {Signal.RUNNING: 5.0, Signal.SM_CLOCK_RATIO: 0.5}, 100.0)
    view = made.view(("a",), 110.0)
    assert int(view.freshness(Signal.RUNNING)[0]) == Freshness.STALE
    assert int(view.freshness(Signal.SM_CLOCK_RATIO)[0]) == Freshness.FRESH


def test_a_view_never_changes_under_a_decision() -> None:
    made = store()
    made.record("a", {Signal.RUNNING: 5.0}, 100.0)
    view = made.view(("a",), 100.0)
    made.record("a", {Signal.RUNNING: 9.0}, 101.0)
    assert view.values[Signal.RUNNING][0] == 5.0
    with pytest.raises(ValueError, match="read-only"):
        view.values[0, 0] = 1


def test_a_row_that_is_used_again_remembers_nothing_of_who_had_it() -> None:
    made = store()
    made.record("a", {Signal.RUNNING: 5.0}, 100.0)
    made.sync(["b", "c"])
    assert made.view(("c",), 100.0).freshness(Signal.RUNNING).tolist() == [Freshness.ABSENT]
    made.record("a", {Signal.RUNNING: 5.0}, 100.0)
    made.sync([f"e{n}" for n in range(100)])
    assert made.view(("e99",), 1.0).values.shape[1] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10 * LARGEST])
def test_what_is_no_number_counts_as_not_said(value: float) -> None:
    made = store()
    made.record("a", {Signal.RUNNING: 5.0}, 100.0)
    made.record("a", {Signal.RUNNING: value}, 101.0)
    assert made.view(("a",), 101.0).values[Signal.RUNNING][0] == 5.0
    assert made.view(("a",), 101.0).age_s(Signal.RUNNING)[0] == 1.0


def test_labels_of_other_exporters_are_no_reason_to_fail() -> None:
    strange = (
        b'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="u"} 5\nDCGM_EXP_XID_ERRORS_COUNT{gpu="0",UUID="u",xid="unknown"} 1\n'
    )
    assert gpu().read(strange, 1.0)[Signal.XID_OUT] == 0
    zero = GpuReader({}, frozenset({0}), frozenset({0}))
    assert zero.read(dcgm_page(xid=0), 1.0)[Signal.XID_OUT] == 0
