"""The script that estimates tokens, run by LuaJIT as in Envoy, against a parser of JSON."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gpuxds.policy.loader import load_text
from gpuxds.snapshot.body import script as script_of
from gpuxds.snapshot.estimate import estimating
from support.lua import Answered, Handle, loaded

TENANTS = "tenants: {header: x, default: {tokens_per_second: 1}}"
"""Somebody who wants to know every estimate."""
KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")
POLICY = """
version: 1
pools:
  - name: a
    large_requests: {extra}
    endpoints: [{{id: x, address: '10.0.0.1:80', gpu: {{model: L4}}}}]
estimate: {estimate}
"""


def estimate(body: bytes | None, headers: dict[str, str] | None = None, **spec: Any) -> int:
    policy = load_text(POLICY.format(extra="{}", estimate=json.dumps(spec)) + TENANTS, "p.yaml").policy
    handle = Handle(headers or {}, body)
    loaded(script_of(policy, None)).envoy_on_request(handle)
    return int(handle.sent["x-gpuxds-estimated-tokens"])


def prompt_of(body: bytes) -> float:
    return len(body) / 4


def under(keys: Sequence[str], value: Any) -> list[Any]:
    """What stands under any of these keys in a document, at any depth."""
    if isinstance(value, dict):
        own = [item for key, item in value.items() if key in keys]
        return own + [each for item in value.values() for each in under(keys, item)]
    if isinstance(value, list):
        return [each for item in value for each in under(keys, item)]
    return []


def number(value: Any) -> float:
    """A number as engines read it, which take numbers in quotes and let white space pass; 0 for what is none."""
    if type(value) in (int, float):
        return float(value)
    try:
        return LAX.validate_python(value) if isinstance(value, str) else 0
    except ValidationError:
        return 0


LAX = TypeAdapter(int)
COUNTS = ("n", "best_of")
TRICKS = ['"max_tokens": 9', '\\"max_tokens\\": 9', "max_tokens", "_tokens", 'x","max_tokens":9,"y":"']
LETTERS = st.sampled_from('ab "\\:,{}_é中\n') | st.characters(codec="utf-8")
TEXTS = st.text(LETTERS, max_size=30) | st.sampled_from(TRICKS)
NUMBERS = st.integers(0, 100_000) | st.floats(0, 1e5, allow_nan=False)
NAMES = st.sampled_from([*KEYS, *COUNTS, "tokens", "min_tokens", "my_max_tokens", "prompt"]) | TEXTS
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
)
def test_what_the_search_finds_is_what_a_parser_finds(
    document: dict[str, Any], ascii_only: bool, separators: tuple[str, str]
) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only, separators=separators).encode()
    lengths, counts = under(KEYS, document), under(COUNTS, document)
    answer = max([0, *map(number, lengths)]) or 256
    expected = min(10**9, max(1, math.ceil(prompt_of(body) + answer * max([1, *map(number, counts)]))))
    if any(isinstance(value, str) for value in (*lengths, *counts)):
        assert estimate(body) >= expected, "more may be seen in a string than an engine does, and never less"
    else:
        assert estimate(body) == expected


SPACES = st.text(st.sampled_from(" \t\n\r\x0b\x0c\u00a0\u1680\u2003\u2029\u3000"), max_size=9)


@given(st.integers(257, 10**8), SPACES, st.booleans())
def test_white_space_does_not_hide_a_number(tokens: int, space: str, ascii_only: bool) -> None:
    text = space + str(tokens) + space
    assume(number(text) == tokens)
    body = json.dumps({"max_tokens": text}, ensure_ascii=ascii_only).encode()
    assert estimate(body) >= math.ceil(prompt_of(body) + tokens)


@given(st.sampled_from(KEYS), st.integers(1, 1_000_000), st.data())
def test_a_key_cannot_be_hidden_by_escapes(key: str, tokens: int, data: st.DataObject) -> None:
    hidden = "".join(
        f"\\u{ord(letter):04x}" if data.draw(st.booleans(), label=letter) else letter for letter in key
    )
    body = f'{{"{hidden}": {tokens}}}'.encode()
    assert json.loads(body) == {key: tokens}
    assert estimate(body) == math.ceil(prompt_of(body) + tokens)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_body_makes_the_script_fail(body: bytes) -> None:
    assert 1 <= estimate(b'{"max_tokens": ' + body) <= 1_000_000_000
    with contextlib.suppress(Answered):
        assert estimate(body) >= 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_that_is_not_utf_8_is_refused_since_engines_read_it_and_the_script_cannot(encoding: str) -> None:
    with pytest.raises(Answered, match="send it in UTF-8"):
        estimate('{"max_tokens": 5000}'.encode(encoding))


CASES = [
    (b'{"max_tokens": null}', 256, "null is no number"),
    (b'{"max_tokens": -5}', 256, "an engine refuses it"),
    (b'{"max_tokens": 0}', 256, "an engine refuses it"),
    (b'{"max_tokens": "700"}', 700, "engines take numbers in quotes"),
    (b'{"max_tokens": " 5_000"}', 5000, "engines read this as the number it looks like"),
    (b'{"max_tokens": 7e2}', 700, "as JSON writes numbers"),
    (b'{"max_tokens": 1e999}', 10**9, "as much as can be said"),
    (b'{"max_tokens": 12, "max_tokens": 700}', 700, "parsers differ on which of two counts"),
    (b'{"a": {"max_tokens": 700}, "max_tokens": 1}', 700, "the largest counts"),
    (b'{"my_max_tokens": 700}', 256, "another key"),
    (b'{"max_tokens": {"type": "integer"}}', 256, "the schema of a tool"),
    (b'"max_tokens" : 700 and no JSON', 700, "invalid JSON is searched all the same"),
    (b"", 256, "an empty body"),
    (rb'{"max_tokens": "\n5000"}', 5000, "parsers leave out white space written as an escape"),
    (rb'{"max_tokens": "\t\u0020\u00a05000 "}', 5000, "of every kind"),
    ('{"max_tokens": "\u00a0\u20035000"}'.encode(), 5000, "or as it is"),
    (rb'{"max_tokens": "\u0035000"}', 5000, "and read digits written as escapes"),
    (b'{"max_tokens": "' + b"1" * 70 + b'"}', 10**9, "a number of many digits"),
    (b'{"max_tokens": "' + b" " * 80 + b'5000"}', 10**9, "a number that is out of sight"),
    (b'{"max_tokens": "many"}', 256, "no number"),
    (b'{"max_tokens": 500, "n": 4}', 2000, "four answers"),
    (b'{"n": 3}', 768, "three answers of a length that is not said"),
    (b'{"max_tokens": 500, "n": 2, "best_of": "5"}', 2500, "made to choose two from"),
    (b'{"max_tokens": 500, "n": 0, "m": {"n": "x"}}', 500, "no numbers of answers"),
    (b'{"max_tokens": 500, "prompt": "say \\"n\\": 9"}', 500, "text inside a string is no key"),
]


@pytest.mark.parametrize(("body", "answer", "why"), CASES, ids=[case[2] for case in CASES])
def test_the_answer_asked_for(body: bytes, answer: int, why: str) -> None:
    assert estimate(body) == min(10**9, math.ceil(prompt_of(body) + answer)), why


@pytest.mark.parametrize(("size", "expected"), [(2976, None), (2977, "1001")])
def test_an_estimate_that_no_pool_calls_large_is_not_said(size: int, expected: str | None) -> None:
    policy = load_text(POLICY.format(extra="{over_tokens: 1000}", estimate="{}"), "p.yaml").policy
    handle = Handle({}, b"x" * size)
    loaded(script_of(policy, None)).envoy_on_request(handle)
    assert handle.sent.get("x-gpuxds-estimated-tokens") == expected


def test_a_request_without_a_body_counts_as_one_token() -> None:
    assert estimate(None) == 1


def test_the_policy_says_what_a_byte_and_an_unstated_answer_are_worth() -> None:
    assert estimate(b"x" * 1000, tokens_per_byte=0.5, default_max_tokens=0) == 500


def test_a_body_that_is_large_by_its_size_alone_is_searched_at_both_ends_only() -> None:
    start, end, middle = (
        b'{"max_tokens": 700, "prompt": "',
        b'", "max_tokens": 700}',
        b'", "max_tokens": 700, "p": "',
    )
    long = b"x" * 50_000
    for body, answer in ((start + long, 700), (long + end, 700), (long + middle + long, 256)):
        policy = load_text(POLICY.format(extra="{}", estimate="{}"), "p.yaml").policy
        handle = Handle({}, body)
        loaded(script_of(policy, None)).envoy_on_request(handle)
        assert int(handle.sent["x-gpuxds-estimated-tokens"]) == math.ceil(prompt_of(body) + answer)


def test_where_tokens_are_limited_nothing_is_too_long_to_be_searched() -> None:
    body = b'{"a": "' + b"x" * 50_000 + b'", "max_tokens": 700, "p": "' + b"x" * 50_000 + b'"}'
    assert estimate(body) == math.ceil(prompt_of(body) + 700)


def test_white_space_after_a_key_takes_no_time() -> None:
    body = b'{"max_tokens":' + b" " * 1_000_000 + b"}"
    assert estimate(body) == math.ceil(prompt_of(body) + 256)


def test_an_escape_may_stand_right_behind_what_looks_like_one() -> None:
    body = rb'{"x": "\\u00\u0061", "max_tok\u0065ns": 700}'
    assert estimate(body) == math.ceil(prompt_of(body) + 700)
    assert estimate(rb'{"x": "\\u006\u0061' + b"x" * 100_000 + b'"}') == 10**9


def test_a_long_body_with_letters_as_escapes_counts_as_the_most_there_is() -> None:
    long = b"x" * 100_000
    assert estimate(b'{"m\\u0061x_tokens": 5, "p": "' + long + b'"}') == 10**9
    honest = b'{"max_tokens": 700, "p": "\\u003cb\\u003e \\u0026 \\u00e9 \\\\u0061 \\u007f' + long + b'"}'
    assert estimate(honest) == math.ceil(prompt_of(honest) + 700)


def test_a_body_that_could_still_be_small_is_searched_as_a_whole() -> None:
    policy = load_text(POLICY.format(extra="{over_tokens: 100000}", estimate="{}"), "p.yaml").policy
    assert estimating(policy)["searched_bytes"] == 400_000


TRUSTED = [("500", 500), ("1", 1), ("99999999999", 10**9), ("0", None), ("-1", None), ("many", None), ("", None)]


@pytest.mark.parametrize(("said", "expected"), TRUSTED)
def test_a_trusted_header_is_believed_when_it_is_a_number(said: str, expected: int | None) -> None:
    body = b'{"max_tokens": 700}'
    own = math.ceil(prompt_of(body) + 700)
    assert estimate(body, {"x-cost": said}, trust_header="x-cost") == (expected or own)
    assert estimate(body, {"x-cost": said}) == own
