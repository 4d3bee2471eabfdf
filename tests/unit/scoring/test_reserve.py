"""Who is reserved, in which order, and why not more."""

from __future__ import annotations

import pytest

from gpuxds.scoring.reserve import Choice, Filters, choose
from support.pools import Pool, policy_for

GPUS = {"h100": "H100-80", "a100": "A100-80", "l40s": "L40S", "l4": "L4"}
PRICES = {"h100": 4.0, "a100": 2.0, "l40s": 1.0}
LABELS = {"h100": "{provider: aws, region: eu}", "a100": "{provider: aws, region: us}", "l4": "{provider: gcp}"}


def chosen(filters: Filters, count: int = 4, floor: int = 0, held: frozenset[str] = frozenset()) -> Choice:
    pool = Pool(policy_for(GPUS, price_per_hour=PRICES, labels=LABELS))
    pool.hear()
    return choose(pool.decide(), filters, count, floor, {"l4": "tiny-llama"}, held)


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (Filters(), ("l40s", "a100", "h100", "l4")),
        (Filters(min_vram_gb=48), ("l40s", "a100", "h100")),
        (Filters(min_vram_gb=48.5), ("a100", "h100")),
        (Filters(max_price=2.0), ("l40s", "a100")),
        (Filters(provider="aws"), ("a100", "h100")),
        (Filters(provider="aws", region="eu"), ("h100",)),
        (Filters(model="A100"), ("a100",)),
        (Filters(model="a100-80"), ("a100",)),
        (Filters(model="tiny-llama"), ("l4",)),
        (Filters(model="H200"), ()),
    ],
    ids=["cheapest first, unknown price last", "as much", "more", "price", "provider", "all must hold", "model",
         "model with memory", "served model", "none"],
)  # fmt: skip
def test_filters_select_and_the_cheapest_come_first(filters: Filters, ids: tuple[str, ...]) -> None:
    assert chosen(filters).ids == ids


@pytest.mark.parametrize(
    ("count", "floor", "ids"), [(1, 0, 1), (4, 0, 4), (4, 1, 3), (2, 3, 1), (1, 4, 0), (1, 9, 0)]
)
def test_no_more_than_asked_for_and_never_below_the_floor(count: int, floor: int, ids: int) -> None:
    found = chosen(Filters(), count, floor)
    assert len(found.ids) == ids
    assert ("floor" in " ".join(found.reasons)) == (ids < count)


def test_every_endpoint_that_does_not_fit_is_told_why() -> None:
    found = chosen(Filters(min_vram_gb=40, max_price=3.0), held=frozenset({"a100"}))
    assert set(found.reasons) == {
        "h100 costs 4 per hour, more than max_price 3",
        "l4 has 24 GB, less than min_vram 40",
        "a100 is reserved already",
    }


def test_among_equals_the_least_busy_is_taken() -> None:
    pool = Pool(policy_for({"a": "L4", "b": "L4", "c": "L4"}))
    pool.hear(["a"], running=5.0)
    pool.hear(["b"], running=1.0)
    pool.hear(["c"], running=3.0)
    assert choose(pool.decide(), Filters(), 3, 0, {}, frozenset()).ids == ("b", "c", "a")


def test_an_endpoint_that_is_not_serving_is_not_reserved() -> None:
    pool = Pool(policy_for({"a": "L4", "b": "L4"}))
    pool.hear()
    pool.drain("a")
    found = choose(pool.decide(), Filters(), 2, 0, {}, frozenset())
    assert found.ids == ("b",)
    assert found.reasons == ("a is draining",)
