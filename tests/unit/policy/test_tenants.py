"""What each tenant may ask of one Envoy, and what is wrong with a policy that cannot say it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuxds.errors import PolicyError
from gpuxds.policy.loader import load_text
from gpuxds.policy.tenants import UNLIMITED, Bucket, Limits, counts_tokens, limits_of

POOL = "version: 1\npools: [{name: a, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]\n"
KEY = "0" * 64


def limits(kind: Any = "requests", **spec: Any) -> Limits | None:
    policy = load_text(POOL + f"tenants: {json.dumps({'header': 'x-tenant', **spec})}", "p.yaml").policy
    assert policy.tenants is not None
    return limits_of(policy.tenants, kind)


def test_a_burst_that_is_not_stated_is_what_ten_seconds_of_requests_or_a_minute_of_tokens_bring() -> None:
    assert limits(default={"requests_per_second": 2.5}) == Limits(Bucket(2.5, 25), {})
    assert limits("tokens", default={"tokens_per_second": 10}) == Limits(Bucket(10, 600), {})
    assert limits(default={"requests_per_second": 0.01}) == Limits(Bucket(0.01, 1), {})
    assert limits("tokens", default={"tokens_per_second": 10**9}) == Limits(Bucket(10**9, UNLIMITED), {})


def test_an_override_takes_from_the_default_what_it_does_not_state() -> None:
    found = limits(
        default={"requests_per_second": 2, "requests_burst": 5},
        overrides={
            "same": {},
            "faster": {"requests_per_second": 4},
            "burstier": {"requests_burst": 50},
            "free": {"requests_per_second": None},
        },
    )
    assert found is not None
    assert found.named == {
        "same": Bucket(2, 5),
        "faster": Bucket(4, 40),
        "burstier": Bucket(2, 50),
        "free": Bucket(UNLIMITED, UNLIMITED),
    }


def test_without_a_default_only_those_with_a_limit_are_limited() -> None:
    one = {"acme": {"requests_per_second": 1}, "other": {"tokens_per_second": 5}}
    assert limits(overrides=one) == Limits(None, {"acme": Bucket(1, 10)})
    assert limits("tokens", overrides=one) == Limits(None, {"other": Bucket(5, 300)})


def test_limits_are_divided_among_the_proxies() -> None:
    assert limits(proxies=4, default={"requests_per_second": 2, "requests_burst": 10}) == Limits(Bucket(0.5, 2), {})
    assert limits(proxies=4, default={"requests_per_second": 2, "requests_burst": 3}) == Limits(Bucket(0.5, 1), {})


def test_tokens_are_counted_when_somebodys_are_limited() -> None:
    assert not counts_tokens(load_text(POOL, "p.yaml").policy)
    for default, expected in (({"requests_per_second": 1}, False), ({"tokens_per_second": 1}, True)):
        text = POOL + f"tenants: {json.dumps({'header': 'x', 'default': default})}"
        assert counts_tokens(load_text(text, "p.yaml").policy) is expected


WRONG = [
    ({}, "give either header or api_key_header"),
    ({"header": "x", "api_key_header": "y"}, "give either header or api_key_header"),
    ({"header": "X-Tenant"}, "header: 'X-Tenant' must match"),
    ({"header": "x", "default": {}}, "nobody has a limit"),
    ({"header": "x", "default": {"requests_per_second": 0}}, "requests_per_second: 0 must be greater than 0"),
    ({"header": "x", "default": {"request_per_second": 1}}, "did you mean 'requests_per_second'?"),
    (
        {"header": "x", "default": {"requests_per_second": 1, "tokens_burst": 5}},
        "there is no tokens_per_second that it would belong to",
    ),
    ({"header": "x", "overrides": {"a": {"key_sha256": [KEY]}}}, "keys are not looked at"),
    (
        {"api_key_header": "x", "overrides": {"a": {}}},
        "no key_sha256, so that no request can be known to be of 'a'",
    ),
    (
        {"api_key_header": "x", "overrides": {"a": {"key_sha256": ["sk-secret"]}}},
        "SHA-256 of the key, not the key itself",
    ),
    (
        {"api_key_header": "x", "overrides": {"a": {"key_sha256": [KEY]}, "b": {"key_sha256": [KEY]}}},
        "is a key of 'a' too",
    ),
]


@pytest.mark.parametrize(("spec", "expected"), WRONG, ids=[case[1] for case in WRONG])
def test_a_wrong_section_is_named_with_its_place(spec: dict[str, Any], expected: str) -> None:
    with_limit = {"default": {"requests_per_second": 1}, **spec}
    with pytest.raises(PolicyError) as refused:
        load_text(POOL + f"tenants: {json.dumps(with_limit)}", "p.yaml")
    (problem,) = refused.value.problems
    assert problem.line == 3
    assert expected in str(problem)
    assert "sk-secret" not in str(problem)
