"""Limits of tenants, kept by each Envoy: who sends a request, how many, and how many tokens they are estimated at.

A script says whose a request is; Envoy's own token buckets count, one per tenant and kind, shared by all workers.
Requests are counted before the body is read, so that one too many costs little; tokens after. The same script puts
refusals into words. Buckets live in the listener: they start afresh when it changes, and not when routes do.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/local_rate_limit_filter
"""

from __future__ import annotations

import math
from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.common.ratelimit import v3 as ratelimit
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as local
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import Policy
from gpuxds.policy.requests import TenantsSpec
from gpuxds.policy.tenants import KINDS, UNLIMITED, Bucket, Kind, Limits, limits_of
from gpuxds.snapshot.estimate import HEADER as TOKENS_HEADER
from gpuxds.snapshot.lua import Literal, lua_filter

HEADER = "x-gpuxds-tenant"
LIMITED = "x-gpuxds-limited"
"""Response header between Envoy's filters: kind, tokens and tenant of a request that was refused."""
FINE = 1000
"""Parts of a request in which buckets count that fill more slowly than one a second: what is left in a bucket is
told in whole parts only, and how long a client has to wait follows from it."""
ALWAYS = core.RuntimeFractionalPercent(
    default_value=envoy_type.FractionalPercent(numerator=100), runtime_key="gpuxds.tenants"
)


def tenant_filters(policy: Policy) -> list[hcm.HttpFilter]:
    """Who it is, and how many requests; nothing without tenants."""
    if policy.tenants is None:
        return []
    scripts = ("sha256", "tenants") if policy.tenants.api_key_header else ("tenants",)
    return [lua_filter("gpuxds.tenants", scripts, settings(policy.tenants)), *limit_filter(policy, "requests")]


def tenant_headers(policy: Policy) -> list[str]:
    """Request headers that say what this finds out; a header that the policy trusts is not among them."""
    return [HEADER] if policy.tenants and policy.tenants.header != HEADER else []


def limit_filter(policy: Policy, kind: Kind) -> list[hcm.HttpFilter]:
    """What counts one kind; nothing where nobody is limited."""
    limits = limits_of(policy.tenants, kind) if policy.tenants else None
    if policy.tenants is None or limits is None:
        return []
    told = core.HeaderValue(key=LIMITED, value=f"{kind} %REQ({TOKENS_HEADER})% %REQ({HEADER})%")
    message = local.LocalRateLimit(
        stat_prefix=f"tenants_{kind}",
        filter_enabled=ALWAYS,
        filter_enforced=ALWAYS,
        descriptors=descriptors(kind, limits),
        rate_limits=[counted(kind, parts(kind, limits))],
        max_dynamic_descriptors=policy.tenants.max_unknown,
        always_consume_default_token_bucket=False,
        enable_x_ratelimit_headers=ratelimit.XRateLimitHeadersRfcVersion.DRAFT_VERSION_03,
        response_headers_to_add=[core.HeaderValueOption(header=told)],
    )
    return [hcm.HttpFilter(name=f"gpuxds.{kind}", typed_config=PackedMessage.pack(message))]


def parts(kind: Kind, limits: Limits) -> int:
    """In how many parts buckets of a kind count; Envoy's hold no more than `UNLIMITED`."""
    found = [bucket for bucket in (limits.default, *limits.named.values()) if bucket and bucket.burst < UNLIMITED]
    slow = kind == "requests" and any(bucket.rate < 1 for bucket in found)
    return FINE if slow and all(bucket.burst * FINE < UNLIMITED for bucket in found) else 1


def counted(kind: Kind, of: int) -> route_v3.RateLimit:
    """Which bucket a request draws from, and how much."""
    by_tenant = route_v3.RateLimitActionRequestHeaders(header_name=HEADER, descriptor_key=kind)
    tokens = route_v3.RateLimitHitsAddend(format=f"%REQ({TOKENS_HEADER})%")
    request = route_v3.RateLimitHitsAddend(number=of) if of > 1 else None
    return route_v3.RateLimit(
        actions=[route_v3.RateLimitAction(request_headers=by_tenant)],
        hits_addend=tokens if kind == "tokens" else request,
    )


def descriptors(kind: Kind, limits: Limits) -> list[ratelimit.LocalRateLimitDescriptor]:
    """A bucket for each name, and one for each other tenant, which Envoy makes when it first hears of it."""
    everybody: list[tuple[str, Bucket]] = [("", limits.default)] if limits.default else []
    return [
        ratelimit.LocalRateLimitDescriptor(
            entries=[ratelimit.RateLimitDescriptorEntry(key=kind, value=name)],
            token_bucket=token_bucket(found, parts(kind, limits)),
        )
        for name, found in [*everybody, *limits.named.items()]
    ]


def token_bucket(bucket: Bucket, of: int = 1) -> envoy_type.TokenBucket:
    """As Envoy states it: whole tokens, `of` for a request, per interval. It fills steadily, not at the interval's
    end."""
    tokens = max(1, math.ceil(bucket.rate))
    return envoy_type.TokenBucket(
        max_tokens=min(UNLIMITED, bucket.burst * of),
        tokens_per_fill=min(UNLIMITED, tokens * of),
        fill_interval=timedelta(milliseconds=round(1000 * tokens / bucket.rate)),
    )


def settings(spec: TenantsSpec) -> dict[str, Literal]:
    """What the script is told."""
    found = {kind: limits for kind in KINDS if (limits := limits_of(spec, kind))}
    names = {key: name for name, own in spec.overrides.items() for key in own.key_sha256}
    return {
        "header": spec.header,
        "key_header": spec.api_key_header,
        "names": names if spec.api_key_header else None,
        "kinds": list(found),
        "unlimited": UNLIMITED,
        **{kind: told(limits, parts(kind, limits)) for kind, limits in found.items()},
    }


def told(limits: Limits, of: int) -> Literal:
    """Limits for the script."""

    def pair(bucket: Bucket) -> Literal:
        return {"rate": bucket.rate, "burst": bucket.burst}

    default = pair(limits.default) if limits.default else None
    return {"parts": of, "default": default, "named": {name: pair(found) for name, found in limits.named.items()}}
