"""The targeted parser reads what the library's own parser reads."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gpuxds.errors import SignalError
from gpuxds.signals.parser import scan
from gpuxds.signals.presets import presets
from gpuxds.signals.presets.dcgm import NAMES
from support.pages import dcgm_page, vllm_page

Series = dict[str, list[tuple[tuple[tuple[str, str], ...], float]]]


def by_library(page: bytes) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((tuple(sorted(sample.labels.items())), float(sample.value)))
    return found


def by_us(page: bytes, names: tuple[bytes, ...]) -> Series:
    return {
        name.decode(): [(tuple(sorted(sample.labels.items())), sample.value) for sample in samples]
        for name, samples in scan(page, names).items()
    }


@pytest.mark.parametrize(
    "page",
    [vllm_page(), vllm_page(2, engines=4), dcgm_page(), dcgm_page(xid=79)],
    ids=["vllm", "4 engines", "dcgm", "xid"],
)
def test_values_and_labels_are_those_of_the_library_on_whole_pages(page: bytes) -> None:
    names = (*presets()["vllm"].names, *NAMES)
    theirs = by_library(page)
    ours = by_us(page, names)
    assert ours == {name: theirs[name] for name in ours}
    assert set(ours) == {name.decode() for name in names} & set(theirs)
    assert ours


@given(st.dictionaries(st.text(max_size=30), st.floats(allow_nan=False), max_size=8))
def test_any_label_value_and_any_number_is_read_as_the_library_reads_it(content: dict[str, float]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("wanted", "Help.", ["x"], registry=registry)
    Gauge("wanted_not", "Help.", ["x"], registry=registry).labels("no").set(1)
    for label, value in content.items():
        gauge.labels(label).set(value)
    page = generate_latest(registry)
    assert by_us(page, (b"wanted",)).get("wanted", []) == by_library(page).get("wanted", [])


@given(st.binary(max_size=400))
def test_no_page_breaks_the_parser(page: bytes) -> None:
    with contextlib.suppress(SignalError):
        scan(page + b"\nwanted 1\n", (b"wanted",))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"wanted 1", 1.0), (b"wanted 1e3 1700000000000", 1000.0), (b'wanted{a="b"} 2 # {trace="x"} 0.1', 2.0),
        (b"wanted  \t 3", 3.0), (b"wanted +Inf", math.inf), (b"wanted{} 4", 4.0), (b'wanted{a="}",} 5', 5.0),
    ],
)  # fmt: skip
def test_forms_a_line_may_have(line: bytes, value: float) -> None:
    assert [sample.value for sample in scan(line, (b"wanted",))[b"wanted"]] == [value]


@pytest.mark.parametrize(
    "line", [b"wanted", b"wanted x", b"wanted_more 1", b"# HELP wanted 1", b"unwanted 1", b'wanted{a="b 1']
)
def test_what_is_not_a_sample_of_the_name_is_not_one(line: bytes) -> None:
    assert scan(line, (b"wanted",)) == {}


@pytest.mark.parametrize(
    ("page", "kind"),
    [(b"<!doctype html><p>wanted 1", "HTML"), (b'{"wanted": 1}', "JSON"), (b"\x00\x01wanted 1", "binary")],
)
def test_a_page_that_is_something_else_is_refused_in_words(page: bytes, kind: str) -> None:
    with pytest.raises(SignalError, match=f"{kind}.*is the metrics URL right"):
        scan(page, (b"wanted",))


@pytest.mark.parametrize(
    "page",
    [
        b"wanted" + b" " * 300_000 + b"\n",
        b"wanted{" + b"a" * 300_000 + b"} 1\n",
        b'wanted{a="' + b"\\" * 300_000 + b"\n",
        b"wanted{" * 40_000,
        b'wanted{a="b"' * 30_000,
    ],
    ids=["blanks", "a long label", "backslashes", "open braces", "open labels"],
)
@pytest.mark.timeout(10)
def test_a_hostile_page_costs_no_more_than_its_length(page: bytes) -> None:
    for sample in scan(b"other 1\n" + page, (b"wanted",)).get(b"wanted", []):
        assert isinstance(sample.labels, dict)
