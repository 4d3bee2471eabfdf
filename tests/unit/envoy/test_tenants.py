"""The scripts of tenants, run by LuaJIT as in Envoy: whose request it is, and what a refused one is told."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuxds.policy.loader import load_text
from gpuxds.snapshot.tenants import settings
from support.lua import Handle, script

POOL = """
version: 1
pools: [{name: a, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]
"""
KEY = "sk-acme-0123456789"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
LIMITS = {"requests_per_second": 0.5, "requests_burst": 3, "tokens_per_second": 10, "tokens_burst": 600}
BY_HEADER = {
    "header": "x-tenant",
    "default": LIMITS,
    "overrides": {"acme": {"requests_per_second": 5}, "slow": {"requests_per_second": 0.1}},
}
BY_KEY = {"api_key_header": "authorization", "default": LIMITS, "overrides": {"acme": {"key_sha256": [DIGEST]}}}


def scripts(spec: dict[str, Any]) -> Any:
    tenants = load_text(POOL + f"tenants: {json.dumps(spec)}", "p.yaml").policy.tenants
    assert tenants is not None
    return script(["sha256", "tenants"] if tenants.api_key_header else ["tenants"], settings(tenants))


def tenant(spec: dict[str, Any], **headers: str) -> str:
    handle = Handle({"x-gpuxds-tenant": "mallory", **headers})
    scripts(spec).envoy_on_request(handle)
    return str(handle.sent["x-gpuxds-tenant"])


def answered(limited: str | None, status: str = "429", **headers: Any) -> tuple[dict[str, Any], Any]:
    """Headers and error of an answer, after the script; `limited` is what the limit that refused it says."""
    handle = Handle({":status": status, **headers}, b"local_rate_limited")
    if limited is not None:
        handle.sent["x-gpuxds-limited"] = limited
    scripts(BY_HEADER).envoy_on_response(handle)
    return handle.sent, json.loads(handle.changed)["error"] if handle.changed else None


def native(limit: Any, remaining: Any) -> dict[str, Any]:
    """What Envoy's limits add; lists where there are two of them, tokens first."""
    return {"x-ratelimit-limit": limit, "x-ratelimit-remaining": remaining, "x-ratelimit-reset": "0"}


@given(st.binary(max_size=200).map(lambda raw: raw.hex() or "x"))
def test_the_hash_is_sha_256(text: str) -> None:
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert tenant(BY_KEY, authorization=text) == f"key-{expected}"


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000])
def test_the_hash_is_right_around_the_ends_of_blocks(length: int) -> None:
    text = "k" * length
    expected = "anonymous" if not text else "key-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    assert tenant(BY_KEY, authorization=f"Bearer {text}") == expected


@pytest.mark.parametrize("said", [KEY, f"Bearer {KEY}", f"bearer  {KEY} ", f"BEARER {KEY}", f"bEaReR {KEY}"])
def test_a_known_key_goes_by_its_name(said: str) -> None:
    assert tenant(BY_KEY, authorization=said) == "acme"


def test_a_key_with_much_white_space_inside_takes_no_time() -> None:
    assert tenant(BY_KEY, authorization="Bearer a" + " " * 400_000 + "b").startswith("key-")


def test_an_unknown_key_is_never_told_on() -> None:
    assert KEY[:8] not in tenant(BY_KEY, authorization=f"Bearer {KEY}x")


def test_a_header_names_the_tenant_and_a_client_cannot_take_our_header() -> None:
    assert tenant(BY_HEADER, **{"x-tenant": "acme"}) == "acme"
    assert tenant(BY_HEADER, **{"x-tenant": "somebody"}) == "somebody"
    assert tenant(BY_HEADER, **{"x-tenant": ""}) == "anonymous"
    assert tenant(BY_HEADER) == tenant(BY_KEY) == "anonymous"


REFUSED = [
    ("requests  acme", "0", 1, "an override's rate: 5 a second"),
    ("requests  other", "0", 2, "the default's: one every two seconds"),
    ("requests 500 other", "0", 2, "a request costs one, whatever it is estimated at"),
    ("requests  other", "499", 2, "half a request and a bit is missing"),
    ("requests  other", "500", 1, "half a request is missing at half a one a second"),
    ("requests  other", "999", 1, "not at once"),
    ("requests  slow", "700", 3, "0.3 / 0.1 is a little above 3 for a computer"),
    ("requests  slow", "699", 4, "and this is really above"),
    ("tokens 50 other", "40", 1, "10 are missing at 10 a second"),
    ("tokens 51 other", "40", 2, "11 are missing: a second is not enough"),
    ("tokens 600 other", "0", 60, "as much as the bucket holds"),
    ("tokens 600 a b c", "0", 60, "a name with spaces"),
]


@pytest.mark.parametrize(("limited", "remaining", "retry_after", "why"), REFUSED, ids=[case[3] for case in REFUSED])
def test_retry_after_is_when_the_bucket_holds_enough(
    limited: str, remaining: str, retry_after: int, why: str
) -> None:
    kind = limited.partition(" ")[0]
    values = native("3000", remaining) if kind == "requests" else native(["600", "3000"], [remaining, "2000"])
    headers, error = answered(limited, **values)
    assert headers["retry-after"] == str(retry_after), why
    assert (headers[":status"], headers["content-type"]) == ("429", "application/json")
    assert headers[f"x-ratelimit-remaining-{kind}"] == (remaining if kind == "tokens" else "0")
    assert error is not None
    assert (error["type"], error["code"], error["param"]) == (kind, "rate_limit_exceeded", None)


def test_a_request_above_the_burst_is_not_told_to_come_back() -> None:
    headers, error = answered("tokens 601 other", **native(["600", "3000"], ["600", "2000"]))
    assert headers[":status"] == "413"
    assert "retry-after" not in headers
    assert error is not None
    assert error["code"] == "request_exceeds_limit"
    assert "601 tokens" in error["message"]


def test_limits_are_told_by_kind_and_those_of_an_engine_stay_out() -> None:
    headers, error = answered(None, "200", **native(["7", "600", "3000"], ["6", "500", "2999"]))
    assert error is None
    assert {name: value for name, value in headers.items() if name.startswith("x-ratelimit")} == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
    }


def test_a_refusal_of_the_engine_is_passed_on_as_it_is() -> None:
    headers, error = answered(None, "429", **native(["600", "3"], ["500", "2"]))
    assert error is None
    assert "retry-after" not in headers


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=40))
def test_no_name_breaks_the_answer(name: str) -> None:
    _, error = answered(f"requests  {name}", **native("3000", "0"))
    assert error is not None
    assert error["code"] == "rate_limit_exceeded"
