"""The estimate of a request's tokens, made inside Envoy: filters that set a header, for routes and limits to read.

Nothing is generated unless something counts tokens, and then only requests to pools where it counts are read. A
body is held in memory until it is complete, since the route follows from it, so its size is bounded. A body in gzip
is unpacked first, and reaches the endpoint unpacked: engines take no other. Envoy cuts off what unpacks to more
than a hundred times its size: a small request cannot fill the memory, and engines refuse what is left of it.

That the header is ours and not a client's is not left to the script: it is removed as the first thing that happens
to a request.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

import math

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.compression.gzip.decompressor import v3 as gzip
from envoy_data_plane.envoy.extensions.filters.http.decompressor import v3 as decompressor
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.tenants import counts_tokens
from gpuxds.snapshot.lua import Literal, lua_filter
from gpuxds.snapshot.replies import error_reply, has_status

HEADER = "x-gpuxds-estimated-tokens"
FILTERS = ("gpuxds.gunzip", "gpuxds.estimate")
WINDOW_BITS = 15
"""Of gzip; the largest, so that every body can be unpacked."""
LEAST_SEARCHED_BYTES = 16_384


def read(policy: Policy, pool: PoolSpec) -> bool:
    """Whether anything asks for the tokens of requests to a pool."""
    return pool.large_requests is not None or counts_tokens(policy)


def estimates(policy: Policy) -> bool:
    """Whether anything asks for the tokens of any request."""
    return any(read(policy, pool) for pool in policy.pools)


def estimate_filters(policy: Policy) -> list[hcm.HttpFilter]:
    """What reads a body and sets the header; nothing when nobody asks."""
    if not estimates(policy):
        return []
    return [gunzip(), lua_filter(FILTERS[1], ["estimate"], settings(policy))]


def settings(policy: Policy) -> dict[str, Literal]:
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
    """Bodies up to this size are searched as a whole: longer ones are large by their size alone, in every pool."""
    limits = [pool.large_requests.over_tokens for pool in policy.pools if pool.large_requests]
    return max(LEAST_SEARCHED_BYTES, math.ceil(max(limits, default=0) / policy.estimate.tokens_per_byte))


def silent_up_to(policy: Policy) -> int:
    """Estimates up to this are read by nobody, and not said: a header costs a request 5 microseconds of 20."""
    limits = [pool.large_requests.over_tokens for pool in policy.pools if pool.large_requests]
    return 0 if counts_tokens(policy) else min(limits, default=0)


def gunzip() -> hcm.HttpFilter:
    """Unpacks requests, and leaves answers alone."""
    off = core.RuntimeFeatureFlag(default_value=False, runtime_key="gpuxds.gunzip_answers")
    library = core.TypedExtensionConfig(
        name="gzip", typed_config=PackedMessage.pack(gzip.Gzip(window_bits=WINDOW_BITS))
    )
    message = decompressor.Decompressor(
        decompressor_library=library,
        request_direction_config=decompressor.DecompressorRequestDirectionConfig(advertise_accept_encoding=False),
        response_direction_config=decompressor.DecompressorResponseDirectionConfig(
            common_config=decompressor.DecompressorCommonDirectionConfig(enabled=off)
        ),
    )
    return hcm.HttpFilter(name=FILTERS[0], typed_config=PackedMessage.pack(message))


def estimate_headers(policy: Policy) -> list[str]:
    """Request headers that say what this finds out; a header that the policy trusts is not among them."""
    return [HEADER] if estimates(policy) and policy.estimate.trust_header != HEADER else []


def removed_at_the_door(*names: str) -> list[core.TypedExtensionConfig]:
    """Removes what no client may say, before anything reads it; nothing without names."""
    if not names:
        return []
    message = early.HeaderMutation(mutations=[mutation.HeaderMutation(remove=name) for name in names])
    name = "envoy.http.early_header_mutation.header_mutation"
    return [core.TypedExtensionConfig(name=name, typed_config=PackedMessage.pack(message))]


def estimate_replies(policy: Policy) -> list[hcm.ResponseMapper]:
    """What a client is told whose body is too large to be held."""
    if not estimates(policy):
        return []
    limit = f"at most {policy.estimate.max_body_bytes} bytes where tokens are counted"
    message = f"the body of this request is too large to be read ({limit})"
    return [error_reply(has_status(413), message, "invalid_request_error", "request_too_large")]


def prepare(policy: Policy, pool: PoolSpec, routes: list[route_v3.Route]) -> list[route_v3.Route]:
    """The routes of a pool, with room for bodies that are read, and without reading those that are not."""
    if not estimates(policy):
        return routes
    for route in routes:
        if read(policy, pool):
            route.request_body_buffer_limit = policy.estimate.max_body_bytes
        else:
            off = PackedMessage.pack(route_v3.FilterConfig(disabled=True))
            route.typed_per_filter_config |= dict.fromkeys(FILTERS, off)
    return routes
