"""The fake GPU's physics, against the table it was built from, and its bookkeeping under any history."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuxds.simulator.control import Spec
from gpuxds.simulator.faults import Faults
from gpuxds.simulator.gpus import TYPES
from gpuxds.simulator.load import Outcome, percentile, summary
from gpuxds.simulator.replica import Replica, Sequence
from gpuxds.simulator.workload import Workload

STEP_MS = {
    "H100-80": (6.6, 9.1), "A100-80": (10.5, 14.9), "A100-40": (13.6, 18.8), "L40S": (21.4, 29.4),
    "L4": (60.7, None),
}  # fmt: skip
KV_TOKENS = {
    "H100-80": 443_700,
    "A100-80": 446_200,
    "A100-40": 155_800,
    "L40S": 192_000,
    "A10G": 28_600,
    "L4": 28_600,
}
IDLE_TTFT_MS = {"H100-80": 32, "A100-80": 96, "A100-40": 98, "L40S": 89, "L4": 264}
CONTEXT = 1366


@pytest.mark.parametrize("name", STEP_MS)
def test_step_times_are_those_of_the_model(name: str) -> None:
    alone, with_32 = STEP_MS[name]
    gpu = TYPES[name]
    assert 1000 * gpu.step_s(1, CONTEXT, (), 1.0) == pytest.approx(alone, rel=0.03)
    if with_32 is not None:
        assert 1000 * gpu.step_s(32, 32 * CONTEXT, (), 1.0) == pytest.approx(with_32, rel=0.03)
    assert gpu.step_s(8, 8 * CONTEXT, (), 0.5) == pytest.approx(2 * gpu.step_s(8, 8 * CONTEXT, (), 1.0), rel=0.1)


@pytest.mark.parametrize("name", KV_TOKENS)
def test_kv_capacity_is_that_of_the_model(name: str) -> None:
    assert TYPES[name].kv_tokens == pytest.approx(KV_TOKENS[name], rel=0.01)


@pytest.mark.parametrize("name", IDLE_TTFT_MS)
def test_the_first_token_of_an_idle_server_takes_its_prefill(name: str) -> None:
    replica = Replica(TYPES[name])
    sequence = Sequence(1155, 5, 0.0)
    replica.submit(sequence)
    now = 0.0
    while not sequence.first_token_at:
        now += replica.step(now).duration_s
    assert 1000 * sequence.first_token_at == pytest.approx(IDLE_TTFT_MS[name], rel=0.12)


lengths = st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 400)), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(lengths, st.sets(st.integers(0, 59), max_size=10))
def test_every_request_ends_with_all_its_tokens_and_nothing_is_left(
    requests: list[tuple[int, int]], aborted: set[int]
) -> None:
    replica = Replica(TYPES["L4"])
    sequences = [Sequence(prompt, output, 0.0) for prompt, output in requests]
    for sequence in sequences:
        replica.submit(sequence)
    now, steps = 0.0, 0
    while not replica.idle:
        step = replica.step(now)
        now += step.duration_s
        steps += 1
        assert replica.kv_used <= replica.gpu.kv_tokens or replica.running <= 1
        assert replica.running <= replica.max_num_seqs
        if steps == 5:
            for index in aborted & set(range(len(sequences))):
                replica.abort(sequences[index])
        assert steps < 100_000
    gone = {index for index in aborted if index < len(sequences)}
    for index, sequence in enumerate(sequences):
        if index not in gone:
            assert sequence.finished_at >= sequence.first_token_at > 0
            assert replica.tokens(sequence) == sequence.output_tokens
    assert replica.context_tokens == replica.prefilled_tokens == 0


def test_a_seed_repeats_a_workload_whose_lengths_have_the_stated_medians() -> None:
    one, other = (Workload(random.Random(7)) for _ in range(2))
    drawn = [one.request() for _ in range(2000)]
    assert drawn == [other.request() for _ in range(2000)]
    assert percentile([prompt for prompt, _ in drawn], 0.5) == pytest.approx(800, rel=0.1)
    assert percentile([output for _, output in drawn], 0.5) == pytest.approx(160, rel=0.1)
    assert max(prompt for prompt, _ in drawn) <= one.prompt_max_tokens


def test_gaps_have_the_mean_of_their_rate() -> None:
    workload = Workload(random.Random(1))
    assert sum(workload.gap_s(20.0) for _ in range(5000)) / 5000 == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"hag": True}, "no fault 'hag'"),
        ({"throttle": "x"}, "not a float"),
        ({"throttle": 0.5}, "1 is healthy"),
        ({"die": 1}, "not a bool"),
    ],
)
def test_a_wrong_fault_is_refused_in_words(wishes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Faults().changed(wishes)


def test_throttle_and_slow_multiply() -> None:
    assert Faults().changed({"throttle": 2.0, "slow": 2}).speed == 0.25


def test_a_fleet_is_told_as_name_type_and_port() -> None:
    assert Spec.parse("a=H100-80:18101") == Spec("a", "H100-80", 18101)
    for wrong in ("a", "a=H100:1", "a=L4", "a=L4:x"):
        with pytest.raises(ValueError, match="name=TYPE:PORT"):
            Spec.parse(wrong)


def test_outcomes_in_a_few_numbers() -> None:
    found = summary([Outcome(0, 2, 0.5, "a"), Outcome(0, 4, 0.1, "b"), Outcome(0, 1, float("nan"), "", "boom")])
    assert (found.count, found.failed, found.e2e_p95, found.ttft_p50) == (2, 1, 4, 0.5)
    assert found.by_endpoint == {"a": 1, "b": 1}
    assert found.errors == {"boom": 1}
