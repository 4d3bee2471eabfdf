"""Checks between fields of what a policy says of single requests: tries, waiting, tenants, priorities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuxds.policy.finding import Finding
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.positions import Path
from gpuxds.policy.requests import TenantLimits, TenantsSpec
from gpuxds.policy.tenants import KINDS, limits_of, merged

LONGEST_TENANT = 128
TOO_MANY = 429
"""Status of what a guard refuses."""
OWN_HEADERS = ("x-envoy-", "x-gpuxds-")
HTTP_HEADERS = frozenset(
    {"content-length", "content-type", "content-encoding", "transfer-encoding", "host", "connection"}
)


def tries_make_sense(policy: Policy) -> Iterator[Finding]:
    """Retries, hedging and timeouts fit together."""
    for index, pool in enumerate(policy.pools):
        path: Path = ("pools", index)
        no_retries = "needs retries, and retries.attempts is 0: nothing would be tried twice"
        if pool.hedging and pool.hedging.after <= 0:
            yield Finding((*path, "hedging", "after"), "must be longer than 0s")
        if pool.retries.attempts == 0 and pool.hedging:
            yield Finding((*path, "hedging"), no_retries)
        if pool.retries.attempts == 0 and pool.retries.stuck_after:
            yield Finding((*path, "retries", "stuck_after"), no_retries)
        yield from is_clients_header((*path, "timeouts", "header"), pool.timeouts.header)
        if pool.guard and {"budget_percent", "budget_minimum"} & pool.retries.model_fields_set:
            text = "is not used in a pool with guards: their refusals are tried elsewhere, and bound every storm"
            yield Finding((*path, "retries"), text, "warning")
        total_s = pool.timeouts.request * pool.timeouts.buffer
        if total_s > pool.timeouts.idle > 0:
            text = (
                f"{total_s:g} s with its buffer: idle cuts a silent request after {pool.timeouts.idle:g} s already"
            )
            yield Finding((*path, "timeouts", "request"), text, "warning")


def guards_and_tries_fit(policy: Policy) -> Iterator[Finding]:
    """Requests reach every guard that has room, and those in line wait as long as the queue says."""
    for index, pool in enumerate(policy.pools):
        if pool.guard is None:
            continue
        path: Path = ("pools", index)
        if pool.hedging:
            text = (
                "is not possible with guard: a hedged request is sent twice at most, so two full guards refuse it "
                "while another has room, it never waits in line, and no budget bounds second tries; "
                "remove hedging or guard"
            )
            yield Finding((*path, "hedging"), text)
        for position, status in enumerate(pool.retries.on_status):
            if status == TOO_MANY:
                text = (
                    "429 is what a guard answers where waiting was in vain: such a request would wait again; "
                    "remove it, since a guard's other refusals are tried elsewhere anyway"
                )
                yield Finding((*path, "retries", "on_status", position), text)
        yield from waiting_is_not_cut(path, pool)


def waiting_is_not_cut(path: Path, pool: PoolSpec) -> Iterator[Finding]:
    """Time in line is silence to a proxy, which has limits of its own for that; 0 is none."""
    if pool.guard is None or pool.guard.queue is None:
        return
    timeouts, longest_s = pool.timeouts, pool.guard.queue.timeout
    total_s = timeouts.request * timeouts.buffer
    cut, ejected = "requests in line would be cut with 504", "waiting would count as failing, and eject endpoints"
    limits = (
        ("timeouts", "idle", timeouts.idle, "", cut),
        ("timeouts", "request", total_s, " with its buffer", cut),
        ("retries", "stuck_after", pool.retries.stuck_after, "", ejected),
    )
    for section, field, limit_s, how, why in limits:
        if 0 < limit_s <= longest_s:
            text = (
                f"{limit_s:g} s{how} is not longer than guard.queue.timeout of {longest_s:g} s: {why}; "
                "give a longer time, or a shorter guard.queue.timeout"
            )
            yield Finding((*path, section, field), text)


def tenants_can_be_told_apart(policy: Policy) -> Iterator[Finding]:
    """Tenants have one way to be told apart, their keys are their own, and somebody has a limit."""
    spec = policy.tenants
    if spec is None:
        return
    if (spec.header is None) == (spec.api_key_header is None):
        yield Finding(("tenants",), "give either header or api_key_header: what tells tenants apart")
    if limits_of(spec, "requests") is None and limits_of(spec, "tokens") is None:
        text = "nobody has a limit; give requests_per_second or tokens_per_second, for default or for an override"
        yield Finding(("tenants",), text)
    yield from bursts_have_a_rate(("tenants", "default"), spec.default, spec)
    yield from bursts_let_something_through(policy, spec)
    yield from is_clients_header(("tenants", "header"), spec.header)
    yield from is_clients_header(("tenants", "api_key_header"), spec.api_key_header)
    yield from overrides_are_known_by_something(spec)


def overrides_are_known_by_something(spec: TenantsSpec) -> Iterator[Finding]:
    """Each override has a name that fits, and keys of its own where keys tell."""
    owners: dict[str, str] = {}
    for name, own in spec.overrides.items():
        place: Path = ("tenants", "overrides", name)
        yield from bursts_have_a_rate(place, own, spec)
        if not name or len(name) > LONGEST_TENANT:
            yield Finding(place, f"a tenant's name has 1 to {LONGEST_TENANT} characters")
        if spec.api_key_header is not None and not own.key_sha256:
            yield Finding(place, f"no key_sha256, so that no request can be known to be of {name!r}")
        if spec.api_key_header is None and own.key_sha256:
            yield Finding((*place, "key_sha256"), "keys are not looked at; give api_key_header instead of header")
        for position, key in enumerate(own.key_sha256):
            if owners.setdefault(key, name) != name:
                yield Finding((*place, "key_sha256", position), f"is a key of {owners[key]!r} too")


def bursts_let_something_through(policy: Policy, spec: TenantsSpec) -> Iterator[Finding]:
    """A request that does not say how long its answer may be fits into every bucket of tokens."""
    limits = limits_of(spec, "tokens")
    buckets = {} if limits is None else {"default": limits.default, **limits.named}
    for name, found in buckets.items():
        if found is not None and found.burst <= policy.estimate.default_max_tokens:
            place: Path = ("tenants", "default") if name == "default" else ("tenants", "overrides", name)
            text = (
                f"a burst of {found.burst} tokens in each proxy lets no request through that does not say its "
                f"max_tokens, which counts as {policy.estimate.default_max_tokens}; give a larger tokens_burst"
            )
            yield Finding(place, text, "warning")


def estimates_are_told_by_a_header_for_it(policy: Policy) -> Iterator[Finding]:
    """The header that may state an estimate; a gateway may use the name under which we say it."""
    name = policy.estimate.trust_header
    if name == "authorization":
        text = "'authorization' says who asks; name a header in which a gateway says tokens, for example x-tokens"
        yield Finding(("estimate", "trust_header"), text)
    elif name != "x-gpuxds-estimated-tokens":
        yield from is_clients_header(("estimate", "trust_header"), name)


def is_clients_header(path: Path, name: str | None) -> Iterator[Finding]:
    """A header that clients or a gateway set, and not Envoy, HTTP or we."""
    if name and (name.lower().startswith(OWN_HEADERS) or name.lower() in HTTP_HEADERS):
        text = f"{name!r} is Envoy's, HTTP's or ours; name one that clients set for this, for example x-team"
        yield Finding(path, text)


def bursts_have_a_rate(path: Path, limits: TenantLimits, spec: TenantsSpec) -> Iterator[Finding]:
    """A burst without a rate would limit nothing."""
    for kind in KINDS:
        rate = getattr(merged(spec.default, limits, kind), f"{kind}_per_second")
        if getattr(limits, f"{kind}_burst") is not None and rate is None:
            yield Finding((*path, f"{kind}_burst"), f"there is no {kind}_per_second that it would belong to")


def tenants_of_rule_exist(spec: TenantsSpec | None, names: Sequence[str], place: Path) -> Iterator[Finding]:
    """Where keys tell tenants apart, a rule is about those that have keys."""
    for name in names:
        if spec and spec.api_key_header and name not in spec.overrides:
            text = f"no request can be known to be of {name!r}: tenants.overrides has no keys of that name"
            yield Finding((*place, "tenants"), text, "warning")


def priorities_can_be_trusted(policy: Policy) -> Iterator[Finding]:
    """Rules use headers that clients cannot set, and there is a guard that obeys them."""
    spec = policy.priorities
    if spec is None:
        return
    if not any(pool.guard for pool in policy.pools):
        yield Finding(("priorities",), "guards are who obeys priorities, and no pool has them; give pools[].guard")
    seen: dict[tuple[str, str], int] = {}
    for index, rule in enumerate(spec.rules):
        place: Path = ("priorities", "rules", index)
        if bool(rule.tenants) == bool(rule.header and rule.values) or bool(rule.header) != bool(rule.values):
            yield Finding(place, "give header and values, or tenants: whom the rule is about")
        if rule.tenants and policy.tenants is None:
            yield Finding((*place, "tenants"), "the policy tells no tenants apart; give tenants at its top")
        yield from tenants_of_rule_exist(policy.tenants, rule.tenants, place)
        if rule.header and rule.header not in spec.trusted_headers:
            text = (
                f"clients can send {rule.header!r} themselves and so choose their priority; name it in "
                "trusted_headers if something before Envoy sets or removes it"
            )
            yield Finding((*place, "header"), text)
        field = "tenants" if rule.tenants else "values"
        for value in rule.tenants or rule.values:
            first = seen.setdefault((rule.header or "", value), index)
            if first != index:
                text = f"{value!r} is in rules[{first}] too, which decides"
                yield Finding((*place, field), text, "warning")
