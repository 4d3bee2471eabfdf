"""What explain says of a policy's rules: one sentence for each that is used, and none for the others."""

from __future__ import annotations

import pytest

from gpuxds.policy.loader import load_text
from gpuxds.policy.rules import rules

TEXT = """
version: 1
pools:
  - name: a
    {pool}
    endpoints: [{{id: x, address: '10.0.0.1:80', gpu: {{model: H100-80}}}}]
{extra}
"""


def told(pool: str = "", extra: str = "") -> str:
    policy = load_text(TEXT.format(pool=pool, extra=extra), "p.yaml").policy
    return "\n".join(rules(policy, policy.pools[0]))


def test_a_policy_that_uses_none_has_no_sentence_on_tokens_or_tenants() -> None:
    assert "token" not in told()
    assert "tenant" not in told()


def test_large_requests_say_where_they_go_and_how_they_are_known() -> None:
    text = told("large_requests: {over_tokens: 1000, min_memory_gb: 48}", "estimate: {trust_header: x-cost}")
    assert "above 1000 tokens goes to a/large: endpoints with at least 48 GB" in text
    assert "as x-cost says, else 0.25 per byte" in text


def test_tenants_say_what_each_may_ask_for() -> None:
    text = told(
        extra="""
tenants:
  header: x-team
  default: {requests_per_second: 2, requests_burst: 5}
  overrides: {acme: {requests_per_second: 10}, probes: {requests_per_second: null}}
"""
    )
    assert "told by x-team, through each proxy: acme 10 per second and 100 at once, probes without limit" in text
    assert "each other one 2 per second and 5 at once" in text


PRIORITIES = """
tenants: {header: x-org, default: {requests_per_second: 5}}
priorities:
  trusted_headers: [x-team]
  default: LOW
  reserved_percent: 5
  rules:
    - {header: x-team, values: [shop, till], priority: HIGH}
    - {tenants: [acme], priority: NORMAL}
"""


def test_priorities_say_who_has_which_and_what_each_leaves_to_others() -> None:
    text = told("guard: {queue: {}}", PRIORITIES)
    assert "by the first that fits: x-team shop or till HIGH, tenant acme NORMAL, every other LOW\n" in text
    assert "NORMAL leaves 5 %, rounded up to whole requests, to HIGH and URGENT; LOW leaves twice as much" in text
    assert "a retry ranks one level higher there, up to URGENT" in text


def test_priorities_have_no_sentence_on_what_they_do_not_do_in_a_pool() -> None:
    assert "priority" not in told("match: {prefix: /b}", EXTRA_POOL)
    assert "NORMAL leaves" not in told("guard: {queue: {}}", PRIORITIES.replace("percent: 5", "percent: 0"))
    assert "in line" not in told("guard: {}", PRIORITIES)


EXTRA_POOL = f"""\
  - name: guarded
    guard: {{}}
    endpoints: [{{id: y, address: '10.0.0.2:80', gpu: {{model: H100-80}}}}]
{PRIORITIES}"""


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("guard: {queue: {timeout: 2s, max_waiting: 7}}",
         "a full guard sends a request elsewhere, as one of its retries; at its last try, or when every endpoint "
         "was tried, it is kept in line, up to 2 s, 7 at each endpoint at most, and then refused with 429"),
        ("guard: {}", "at its last try, or when every endpoint was tried, it is refused with 429 at once"),
        ("retries: {attempts: 0}\n    guard: {queue: {}}",
         "at a full guard a request is kept in line, up to 5 s, 64 at each endpoint at most, and then refused"),
        ("retries: {attempts: 0}\n    guard: {}", "at a full guard a request is refused with 429 at once"),
    ],
)  # fmt: skip
def test_guards_say_what_becomes_of_a_request_that_finds_them_full(pool: str, expected: str) -> None:
    assert expected in told(pool)


def test_a_retry_budget_is_shown_where_it_is_in_force_only() -> None:
    assert "retries under way: at most 50 %" in told()
    assert "under way" not in told("guard: {}")
    assert "guard" not in told()
