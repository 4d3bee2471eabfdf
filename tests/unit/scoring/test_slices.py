"""A slice takes health from its pool and weighs its members on their own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.policy.slices import Slice
from gpuxds.scoring.contract import PoolDecision, PoolMemory
from gpuxds.scoring.pipeline import decide, decide_slice
from gpuxds.scoring.tokens import token_means
from support.pools import Pool, policy_for

GPUS = {"h100": "H100-80", "a100": "A100-80", "l40s": "L40S", "l4": "L4"}
LARGE = Slice("p/large", "p", ("h100", "a100"), least_prompt_tokens=4096)


def cut(pool: Pool, whole: PoolDecision, part: Slice, memory: PoolMemory | None = None) -> PoolDecision:
    tokens = token_means(whole.view)
    return decide_slice(
        pool.policy, pool.policy.pools[0], part, pool.facts, whole, memory or PoolMemory(), tokens
    )  # fmt: skip


def test_weights_are_decided_for_the_members_and_not_copied() -> None:
    pool = Pool(policy_for(GPUS))
    whole = pool.steady(20, running=2.0)
    part = cut(pool, whole, LARGE)
    assert part.ids == ("h100", "a100") or part.ids == ("a100", "h100")
    assert (part.pool, part.cluster) == ("p", "p/large")
    ratio = dict(zip(part.ids, part.weights, strict=True))
    shared = pool.weights()
    assert ratio["h100"] / ratio["a100"] != shared["h100"] / shared["a100"], "large prompts weigh like small ones"


def test_health_is_the_pools() -> None:
    pool = Pool(policy_for(GPUS))
    pool.steady(5)
    pool.hear(["a100", "l40s", "l4"])
    pool.silent(["h100"], refused=1)
    part = cut(pool, pool.decide(), LARGE)
    found = dict(zip(part.ids, part.envoy_health.tolist(), strict=True))
    assert found == {"h100": 2, "a100": 1}


def test_a_slice_pushes_for_reasons_of_its_own() -> None:
    pool = Pool(policy_for(GPUS))
    pool.steady(5)
    first = cut(pool, pool.last, LARGE)
    assert first.push_reason == "membership"
    pool.hear()
    quiet = cut(pool, pool.decide(0.5), LARGE, first.memory)
    assert not quiet.push
    fewer = cut(pool, pool.last, Slice("p/large", "p", ("h100",)), quiet.memory)
    assert fewer.push_reason == "membership"
    assert fewer.ids == ("h100",)


def test_an_empty_slice_is_decided_too() -> None:
    pool = Pool(policy_for(GPUS))
    pool.hear()
    assert cut(pool, pool.decide(), Slice("p/x", "p", ())).ids == ()


@given(st.sets(st.sampled_from(sorted(GPUS))))
def test_a_reserved_endpoint_is_out_of_the_shared_cluster_and_the_rest_share_all(reserved: set[str]) -> None:
    pool = Pool(policy_for(GPUS))
    pool.hear()
    view = pool.view()
    whole = decide(
        pool.policy, pool.policy.pools[0], pool.facts, view, PoolMemory(), {}, 1, pool.now, token_means(view),
        reserved,
    )  # fmt: skip
    assert {name for name, kept in zip(whole.ids, whole.in_eds, strict=True) if kept} == set(GPUS) - reserved
    assert np.array_equal(whole.memory.weights > 0, whole.in_eds)
