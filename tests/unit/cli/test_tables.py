"""Tables show what they are given, whatever it looks like, in the room there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from gpuxds.cli.layout import PIPED_COLUMNS, SHORTEST_ID, console, shortened, table
from gpuxds.cli.tables import (
    endpoints_table,
    explanation,
    loads_table,
    proxies_table,
    strategies_table,
    told,
)

LONG = "datacentre-frankfurt-2/rack-17/gpu-host-0042.example.internal"
REASON = "identical hardware: equal weights, so that Envoy's full scan is in force"
POOL = {"pool": "llama", "strategy": "gpu_aware", "strategy_source": "policy", "healthy": 2, "endpoints": 2}
SIGNALS = {"running": 1234.0, "waiting": 999.0, "kv_usage": 1.0}


def endpoint(name: str) -> dict[str, Any]:
    return {
        "id": name, "pool": "llama", "cluster": "llama", "health": "quarantined", "envoy_health": "HEALTHY",
        "in_eds": True, "weight": 1_000_000, "gpu": {"model": "A100-80"}, "signals": SIGNALS, "load_age_s": 12.3,
        "reason": REASON,
        "guard": {"port": 18_105, "capacity": 128, "max_waiting": 64, "wait_s": 5.0, "connected": 0},
        "product": 18.02,
        "terms": [{"name": "compensation", "value": 1.0, "why": "least request flattens weights; " * 4}],
        "inputs": [
            {"name": "kv_capacity_tokens", "value": 443_700.0, "age_s": 0.9, "freshness": "fresh"},
            *({"name": f"signal_{i}", "value": 1.0, "age_s": 1.7, "freshness": "stale"} for i in range(20)),
            {"name": "ttft_s", "value": None, "age_s": None, "freshness": "absent"},
        ],
    }  # fmt: skip


RULES = [{"pool": "llama", "rules": ["a request is tried once", "requests are cut " + "after a while " * 20]}]
FLEET = {"pools": [POOL | {"alarms": []}], "rules": RULES, "endpoints": [endpoint("h100"), endpoint(LONG)]}
LOAD = dict.fromkeys(("active", "running", "waiting", "capacity", "total", "failed"), 123_456.0)
LOADS = [{"instance": name, "average_response_s": 12.34, **LOAD} for name in ("h100", LONG)]
TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
KIND = {
    "type_url": TYPE, "sent_version": "5b8bbb47fb7a00", "acked_version": "5b8bbb47fb7a00", "in_sync": False,
    "nack_message": "cluster bad: " * 40,
}  # fmt: skip
PROXIES = {"proxies": [{"node_id": LONG, "group": "all", "mode": "delta", "types": [KIND]}]}
PARAMETERS = {f"parameter_{i}": float(i) for i in range(9)}
STRATEGIES = {"pools": [{"pool": "llama", "source": "override", "strategy": {"name": "gpu_aware", **PARAMETERS}}]}
PICTURES: dict[str, Callable[[int], RenderableType]] = {
    "endpoints": lambda width: endpoints_table(FLEET, width),
    "explain": lambda width: explanation(FLEET, width),
    "load": lambda width: loads_table(LOADS, "instance", width),
    "proxies": lambda width: proxies_table(PROXIES, width),
    "lb-strategy": lambda width: strategies_table(STRATEGIES, width),
}


def lines(picture: RenderableType, width: int) -> list[str]:
    made = Console(highlight=False, markup=False, width=width)
    with made.capture() as captured:
        made.print(picture)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_table_asks_for_no_more_than_80_columns(name: str) -> None:
    shown = lines(PICTURES[name](80), 80)
    assert max(map(len, shown)) <= 80


def test_every_endpoint_has_one_line_and_its_numbers_stay_whole() -> None:
    for name, numbers in (("load", ["123456"] * 6 + ["12.34"]), ("endpoints", ["100%", "1234", "999", "50%"])):
        shown = lines(PICTURES[name](80), 80)
        assert len(shown) == 3
        for row in shown[1:]:
            words = row.split()
            assert all(words.count(number) >= numbers.count(number) for number in numbers), row


def test_both_ends_of_a_long_id_are_shown() -> None:
    cut = lines(PICTURES["load"](80), 80)[2].split()[0]
    start, _, end = cut.partition("…")
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert min(len(start), len(end)) >= 5


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_table_that_is_piped_loses_nothing(name: str) -> None:
    shown = "\n".join(lines(PICTURES[name](PIPED_COLUMNS), PIPED_COLUMNS))
    assert "…" not in shown.replace(" … ", ""), "but for the middle of a rejection"
    for whole in {"endpoints": [LONG, REASON, "1000000", "12.3 s"], "lb-strategy": list(PARAMETERS)}.get(
        name, [LONG]
    ):
        assert whole in shown


def test_a_proxy_says_by_service_what_it_has_and_below_what_it_rejected() -> None:
    head, row, *rejected = lines(PICTURES["proxies"](80), 80)
    assert head.split() == ["proxy", "group", "mode", "type", "sent", "acked", "sync"]
    assert row.split()[1:] == ["all", "delta", "EDS", "5b8bbb47fb7a", "5b8bbb47fb7a", "no"]
    assert " ".join(rejected).startswith(f"! {LONG} rejected EDS: cluster bad:")


@given(st.text(st.characters(exclude_categories=["C", "M"]), max_size=100), st.integers(SHORTEST_ID, 60))
def test_an_id_is_never_wider_than_asked_and_whole_where_it_fits(text: str, most: int) -> None:
    found = shortened(text, most)
    shown = found.plain if isinstance(found, Text) else found
    assert cell_len(shown) <= most
    assert cell_len(text) > most or shown == text


def test_an_operators_brackets_are_no_markup() -> None:
    made: Console = console()
    with made.capture() as captured:
        made.print(table(["why"], [["ticket [/ops] [bold]12[/bold]"]], 80))
    assert "ticket [/ops] [bold]12[/bold]" in captured.get()


def test_a_rejection_is_one_line_with_its_beginning_and_its_end() -> None:
    message = "Error adding cluster bad:\n" + "name: x\n" * 200 + "ConnectTimeout: value must be greater than 0s"
    line = told(message)
    assert "\n" not in line
    assert line.startswith("Error adding cluster bad")
    assert line.endswith("value must be greater than 0s")
    assert len(line) < 240
    assert told("short") == "short"
