"""The estimate of a request's tokens, made inside Envoy from its body: a header, for routes and limits to read.

Nothing is generated unless something counts tokens, and then only requests to pools where it counts are read
(`snapshot.body`, `envoy/estimate.lua`). That the header is ours and not a client's is not left to the script: it is
removed as the first thing that happens to a request.
"""

from __future__ import annotations

import math

from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.tenants import counts_tokens
from gpuxds.snapshot.lua import Literal
from gpuxds.snapshot.replies import error_reply, has_status

HEADER = "x-gpuxds-estimated-tokens"
LEAST_SEARCHED_BYTES = 16_384
EVERY_BODY_BYTES = 2**40
"""More than any body has; over HTTP/2 one may exceed `max_body_bytes` by a window."""


def read(policy: Policy, pool: PoolSpec) -> bool:
    """Whether anything asks for the tokens of requests to a pool."""
    return pool.large_requests is not None or counts_tokens(policy)


def estimates(policy: Policy) -> bool:
    """Whether anything asks for the tokens of any request."""
    return any(read(policy, pool) for pool in policy.pools)


def estimating(policy: Policy) -> dict[str, Literal]:
    """What the script is told."""
    spec = policy.estimate
    return {
        "tokens_per_byte": spec.tokens_per_byte,
        "default_max_tokens": spec.default_max_tokens,
        "searched_bytes": searched_bytes(policy),
        "silent_up_to": silent_up_to(policy),
        "trust_header": spec.trust_header,
    }


def searched_bytes(policy: Policy) -> int:
    """Bodies up to this size are searched as a whole. Where tokens are limited that is every body; else longer ones
    are large by their size alone, in every pool."""
    if counts_tokens(policy):
        return EVERY_BODY_BYTES
    limits = [pool.large_requests.over_tokens for pool in policy.pools if pool.large_requests]
    return max(LEAST_SEARCHED_BYTES, math.ceil(max(limits, default=0) / policy.estimate.tokens_per_byte))


def silent_up_to(policy: Policy) -> int:
    """Estimates up to this are read by nobody, and not said: a header costs a request 5 microseconds of 20."""
    limits = [pool.large_requests.over_tokens for pool in policy.pools if pool.large_requests]
    return 0 if counts_tokens(policy) else min(limits, default=0)


def estimate_headers(policy: Policy) -> list[str]:
    """Request headers that say what this finds out; a header that the policy trusts is not among them."""
    return [HEADER] if estimates(policy) and policy.estimate.trust_header != HEADER else []


def estimate_replies(policy: Policy) -> list[hcm.ResponseMapper]:
    """What a client is told whose body is too large to be held."""
    if not estimates(policy):
        return []
    limit = f"at most {policy.estimate.max_body_bytes} bytes where tokens are counted"
    message = f"the body of this request is too large to be read ({limit})"
    return [error_reply(has_status(413), message, "invalid_request_error", "request_too_large")]
