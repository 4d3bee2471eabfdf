"""What a pool's policy makes Envoy do with a request, in sentences for `gpuxds explain`.

Weights say where a request goes; these say which requests may go where, and how many. A rule that is not used has
no sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.slices import large_of
from gpuxds.policy.tenants import KINDS, UNLIMITED, Bucket, counts_tokens, limits_of


def rules(policy: Policy, pool: PoolSpec) -> list[str]:
    """Every rule in force for a pool."""
    return [*of_large_requests(pool), *of_estimates(policy, pool), *of_tenants(policy)]


def of_large_requests(pool: PoolSpec) -> Iterator[str]:
    """Where large requests go."""
    spec = pool.large_requests
    if spec:
        yield (
            f"a request estimated above {spec.over_tokens} tokens goes to {large_of(pool.name)}: endpoints with at "
            f"least {spec.min_memory_gb:g} GB; without one it is told to come back after {spec.retry_after:g} s"
        )


def of_estimates(policy: Policy, pool: PoolSpec) -> Iterator[str]:
    """How the tokens of a request are found."""
    if not pool.large_requests and not counts_tokens(policy):
        return
    spec = policy.estimate
    told = f"as {spec.trust_header} says, else " if spec.trust_header else ""
    yield (
        f"tokens of a request: {told}{spec.tokens_per_byte:g} per byte of its body, and max_tokens, "
        f"or {spec.default_max_tokens} when it has none; bodies of up to {spec.max_body_bytes} bytes are read"
    )


def of_tenants(policy: Policy) -> Iterator[str]:
    """How much each tenant may ask for."""
    spec = policy.tenants
    if spec is None:
        return
    for kind in KINDS:
        limits = limits_of(spec, kind)
        if limits is not None:
            others = f"each other one {allowance(limits.default)}" if limits.default else "nobody else is limited"
            named = [f"{name} {allowance(found)}" for name, found in limits.named.items()]
            by = spec.header or f"the key in {spec.api_key_header}"
            yield f"{kind} of tenants, told by {by}, through each proxy: {', '.join([*named, others])}"


def allowance(bucket: Bucket) -> str:
    """What a bucket allows."""
    if bucket.burst >= UNLIMITED:
        return "without limit"
    return f"{bucket.rate:g} per second and {bucket.burst} at once"
