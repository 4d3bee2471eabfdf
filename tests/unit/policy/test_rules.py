"""What explain says of a policy's rules: one sentence for each that is used, and none for the others."""

from __future__ import annotations

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
