"""What each tenant may ask of one Envoy, with everything filled in that the policy leaves open.

An override states what differs; what it does not state is the default's. A limit's burst goes with its rate: where
an override states a rate only, its burst follows from that rate and not from the default's burst. Limits are stated
for all proxies together and divided among them, since each counts for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gpuxds.policy.model import Policy
from gpuxds.policy.requests import TenantLimits, TenantsSpec

Kind = Literal["requests", "tokens"]
KINDS: tuple[Kind, ...] = ("requests", "tokens")
BURST_S: Mapping[Kind, float] = {"requests": 10.0, "tokens": 60.0}
"""A burst that is not stated is what this many seconds bring."""
UNLIMITED = 4_000_000_000
"""More than an Envoy forwards; close to the most that a bucket of Envoy's holds."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket in one Envoy."""

    rate: float
    """Per second."""
    burst: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The buckets of one kind."""

    default: Bucket | None
    """Of each tenant without an override; None: no limit."""
    named: Mapping[str, Bucket]


def limits_of(spec: TenantsSpec, kind: Kind) -> Limits | None:
    """The limits of a kind in one Envoy; None when nobody has any."""
    default = bucket(spec.default, kind, spec.proxies)
    own = {name: merged(spec.default, stated, kind) for name, stated in spec.overrides.items()}
    named = {name: bucket(limits, kind, spec.proxies) for name, limits in own.items()}
    if default is None:
        stated = {name: found for name, found in named.items() if found is not None}
        return Limits(None, stated) if stated else None
    unlimited = Bucket(float(UNLIMITED), UNLIMITED)
    return Limits(default, {name: found or unlimited for name, found in named.items()})


def counts_tokens(policy: Policy) -> bool:
    """Whether the tokens of any tenant are limited."""
    return policy.tenants is not None and limits_of(policy.tenants, "tokens") is not None


def merged(default: TenantLimits, own: TenantLimits, kind: Kind) -> TenantLimits:
    """The limits of one tenant: its own where it states any."""
    rate, burst = f"{kind}_per_second", f"{kind}_burst"
    if rate in own.model_fields_set:
        return own
    stated = getattr(own, burst) if burst in own.model_fields_set else getattr(default, burst)
    return default.model_copy(update={burst: stated})


def bucket(limits: TenantLimits, kind: Kind, proxies: int) -> Bucket | None:
    """The bucket of one Envoy among `proxies`; None: no limit."""
    rate: float | None = getattr(limits, f"{kind}_per_second")
    if rate is None:
        return None
    burst: int = getattr(limits, f"{kind}_burst") or min(UNLIMITED, math.ceil(rate * BURST_S[kind]))
    return Bucket(rate / proxies, max(1, burst // proxies))
