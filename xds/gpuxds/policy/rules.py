"""What a pool's policy makes Envoy do with a request, in sentences for `gpuxds explain`.

Weights say where a request goes; these say which requests may go where and how many, how often each is tried, and
how long. A rule that is not used has no sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.requests import PriorityRuleSpec
from gpuxds.policy.slices import large_of
from gpuxds.policy.tenants import KINDS, UNLIMITED, Bucket, counts_tokens, limits_of


def rules(policy: Policy, pool: PoolSpec) -> list[str]:
    """Every rule in force for a pool."""
    sizes = [*of_large_requests(pool), *of_estimates(policy, pool), *of_tenants(policy)]
    return [*sizes, *of_retries(pool), *of_guards(pool), *of_priorities(policy, pool), *of_timeouts(pool)]


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


def of_retries(pool: PoolSpec) -> Iterator[str]:
    """How often a request is tried."""
    retries, hedging = pool.retries, pool.hedging
    if retries.attempts == 0:
        yield "a request is tried once"
        return
    answers = "".join(f", {status}" for status in sorted(set(retries.on_status)))
    yield (
        f"up to {retries.attempts} retries, each on an endpoint not tried yet while there is one (unless weights "
        "differ by more than 2,000 times), before the first byte only, after: a connection that fails or "
        f"breaks{answers}"
    )
    if pool.guard is None:
        yield (
            f"retries under way: at most {retries.budget_percent:g} % of the requests under way for the first "
            f"time, {retries.budget_minimum} in any case"
        )
    if hedging:
        yield (
            f"requests of up to {hedging.max_body_bytes} bytes that are not streamed: one more try beside the "
            f"first after {hedging.after:g} s of silence, and no further ones"
        )
    if retries.stuck_after:
        others = "other requests" if hedging else "any request"
        yield f"{others}: one more try beside the others after every {retries.stuck_after:g} s of silence"


def of_guards(pool: PoolSpec) -> Iterator[str]:
    """What becomes of a request that comes to a full guard."""
    if pool.guard is None:
        return
    queue = pool.guard.queue
    last = "refused with 429 at once"
    if queue:
        line = f"up to {queue.timeout:g} s, {queue.max_waiting} at each endpoint at most"
        last = f"kept in line, {line}, and then refused with 429"
    if pool.retries.attempts == 0:
        yield f"at a full guard a request is {last}"
    else:
        yield (
            "a full guard sends a request elsewhere, as one of its retries; at its last try, or when every "
            f"endpoint was tried, it is {last}"
        )


def of_priorities(policy: Policy, pool: PoolSpec) -> Iterator[str]:
    """Who has which priority, and what it is worth at a guard."""
    spec = policy.priorities
    if spec is None or pool.guard is None:
        return
    yield f"priority, by the first that fits: {', '.join(map(ranked, spec.rules))}, every other {spec.default}"
    if spec.reserved_percent:
        yield (
            f"of an endpoint's capacity NORMAL leaves {spec.reserved_percent:g} %, rounded up to whole requests, "
            "to HIGH and URGENT; LOW leaves twice as much; each may run one request at least"
        )
    if pool.guard.queue:
        yield (
            "in line a higher priority goes first, and takes the last place of a full line from a lower one; a "
            "retry ranks one level higher there, up to URGENT, but does not get the room left to that level"
        )


def ranked(rule: PriorityRuleSpec) -> str:
    """What a rule says, for example `x-team shop HIGH`."""
    return f"{rule.header or 'tenant'} {' or '.join(rule.tenants or rule.values)} {rule.priority}"


def of_timeouts(pool: PoolSpec) -> Iterator[str]:
    """How long a request may take."""
    timeouts = pool.timeouts
    yield f"a request is cut after {timeouts.idle:g} s of silence" if timeouts.idle else "silence cuts no request"
    stated = [f"{timeouts.buffer:g} x the seconds in {timeouts.header}"] if timeouts.header else []
    if timeouts.request:
        total_s = timeouts.buffer * timeouts.request
        stated.append(f"{total_s:g} s{' when it says none' if stated else ''}")
    if stated:
        yield f"a request that is not streamed is cut, in total, after {' or '.join(stated)}"
