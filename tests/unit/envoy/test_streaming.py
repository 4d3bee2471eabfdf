"""The script that tells streams from other requests, run by LuaJIT as in Envoy, against a parser of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.policy.model import Policy
from gpuxds.snapshot.body import script
from support.front import one_pool
from support.lua import Handle, loaded

STATED = "    timeouts: {header: x-wait, request: 30s, buffer: 1.5}\n    hedging: {after: 1s}\n"
TOTAL = "x-envoy-upstream-rq-timeout-ms"


def told(body: bytes | None, headers: dict[str, str] | None = None, parts: str = STATED) -> dict[str, Any]:
    """The headers of a request after the script has run."""
    return run(one_pool(1, parts), body, headers)


def run(policy: Policy, body: bytes | None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    handle = Handle(dict(headers or {}), body)
    loaded(script(policy, policy.pools[0])).envoy_on_request(handle)
    return handle.sent


def whole(body: bytes) -> bool:
    """Whether a request is taken for one that is certainly not streamed."""
    return told(body).get("x-gpuxds-stream") == "false"


@pytest.mark.parametrize(
    ("body", "expected", "why"),
    [
        (b'{"prompt": "a"}', True, "says nothing of it"),
        (b'{"stream": false}', True, "says so"),
        (b'{"stream" : null}', True, "nothing is false"),
        (b'{"stream":true}', False, "is a stream"),
        (b'{"stream": false, "stream": true}', False, "parsers differ on which of two counts"),
        (b'{"stream": 1}', False, "engines take 1 for true"),
        (b'{"stre\\u0061m": true}', False, "a key may be written with escapes"),
        (b'{"prompt": "say \\"stream\\": true"}', True, "text inside a string is no key"),
        (b'{"type": "stream"}', True, "a value is no key"),
        (b'{"options": {"stream": true}}', False, "another key at worst: it is spared"),
        (b' \n{"prompt": "a"}', True, "white space may come first"),
        (b'{"prompt": "a"}\0', False, "no JSON"),
        ('{"stream": true}'.encode("utf-16-le"), False, "cannot be known"),
        (b"\x1f\x8b\x08", False, "cannot be known"),
        (b"a=b", False, "a form"),
        (b"", False, "no object"),
    ],
)
def test_what_is_taken_for_a_stream(body: bytes, expected: bool, why: str) -> None:
    assert whole(body) == expected, why


@given(
    st.dictionaries(st.sampled_from(["stream", "prompt", "x"]) | st.text(max_size=8), st.booleans() | st.text()),
    st.booleans(),
)
def test_no_stream_is_taken_for_something_else(document: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode(errors="replace")
    if document.get("stream", False) is not False:
        assert not whole(body)
    elif "stream" not in document.values():
        assert whole(body)


@pytest.mark.parametrize(
    ("said", "total_ms"), [("10", "15000"), ("0.0001", "1"), ("0", "45000"), ("-3", "45000"), ("soon", "45000")]
)
def test_a_request_that_is_not_streamed_gets_its_time(said: str, total_ms: str) -> None:
    assert told(b"{}", {"x-wait": said})[TOTAL] == total_ms
    assert TOTAL not in told(b'{"stream": true}', {"x-wait": said})


def test_a_request_without_a_body_is_left_alone() -> None:
    assert told(None, {"x-wait": "10"}) == {"x-wait": "10"}


def test_a_pool_that_counts_tokens_as_well_learns_both_from_one_reading() -> None:
    policy = one_pool(1, STATED + "    large_requests: {over_tokens: 10}\n")
    found = run(policy, b'{"prompt": "a", "max_tokens": 100}')
    assert found["x-gpuxds-estimated-tokens"] == "109"
    assert found["x-gpuxds-stream"] == "false"
    assert "x-gpuxds-stream" not in run(policy, b'{"stream": true}')
