"""Request bodies are read inside Envoy, once, by one Lua filter, for all that wants to know something of them.

That is the estimate of tokens (`snapshot.estimate`) and whether a request is streamed (`snapshot.streaming`). Each
has a script of its own in `envoy/`; what a pool needs of them is put together. Where all a policy asks for is the
estimate, one script serves every route; a pool that has more to ask has its own on its routes. Requests to pools
that ask for nothing are never read.

A body is held in memory until it is complete, since the route follows from it, so its size is bounded. A body in
gzip is unpacked first, and reaches the endpoint unpacked: engines take no other. Envoy cuts off what unpacks to
more than a hundred times its size: a small request cannot fill the memory, and engines refuse what is left of it.
Other codings are refused by a route, which costs requests without one next to nothing.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

from typing import Any

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.compression.gzip.decompressor import v3 as gzip
from envoy_data_plane.envoy.extensions.filters.http.decompressor import v3 as decompressor
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.snapshot.estimate import estimates, estimating, read
from gpuxds.snapshot.lua import Literal, http_filter, source
from gpuxds.snapshot.replies import error_body, replaced
from gpuxds.snapshot.streaming import finding_streams, reads_bodies

GUNZIP, BODY = "gpuxds.gunzip", "gpuxds.body"
"""Names of the filters in the chain, by which routes configure them."""
WINDOW_BITS = 15
"""Of gzip; the largest, so that every body can be unpacked."""
READABLE = r"(?i)\s*(gzip|identity)?\s*"
"""Values of `content-encoding` with which a body can be read."""


def body_filters(policy: Policy) -> list[hcm.HttpFilter]:
    """What reads bodies; nothing when nobody asks."""
    if estimates(policy):
        code = core.DataSource(inline_string=script(policy, None))
        return [gunzip(), http_filter(BODY, lua.Lua(default_source_code=code))]
    if any(reads_bodies(pool) for pool in policy.pools):
        return [hcm.HttpFilter(name=BODY, typed_config=PackedMessage.pack(lua.Lua()), disabled=True)]
    return []


def script(policy: Policy, pool: PoolSpec | None) -> str:
    """The script for requests to a pool, or for those of every pool that asks for the estimate only."""
    counted = pool is None or read(policy, pool)
    parts: dict[str, Literal] = {"estimate": estimating(policy)} if counted else {}
    if pool is not None and reads_bodies(pool):
        parts["stream"] = finding_streams(pool)
    scripts = {"estimate": "estimate", "stream": "streaming"}
    return source(["body", *(scripts[part] for part in parts)], parts)


def with_bodies(policy: Policy, pool: PoolSpec, routes: list[route_v3.Route]) -> list[route_v3.Route]:
    """The routes of a pool, with room for bodies that are read, and without reading those that are not."""
    off = route_v3.FilterConfig(disabled=True)
    counted = read(policy, pool)
    own: dict[str, Any] = {} if counted or not estimates(policy) else {GUNZIP: off, BODY: off}
    if reads_bodies(pool):
        code = core.DataSource(inline_string=script(policy, pool))
        own[BODY] = lua.LuaPerRoute(source_code=code)
    for route in routes:
        route.typed_per_filter_config |= {name: PackedMessage.pack(config) for name, config in own.items()}
        if counted:
            route.request_body_buffer_limit = policy.estimate.max_body_bytes
    return [unreadable(pool), *routes] if counted else routes


def unreadable(pool: PoolSpec) -> route_v3.Route:
    """Requests to a pool's prefix in a coding that cannot be unpacked, and so not be counted."""
    known = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=READABLE))
    other = route_v3.HeaderMatcher(name="content-encoding", string_match=known, invert_match=True)
    message = "this body cannot be read; send it plain or with gzip"
    answer = error_body(message, "invalid_request_error", "unsupported_content_encoding")
    off = PackedMessage.pack(route_v3.FilterConfig(disabled=True))
    return route_v3.Route(
        name=f"{pool.name}-unreadable",
        match=route_v3.RouteMatch(prefix=pool.match.prefix, headers=[other]),
        direct_response=route_v3.DirectResponseAction(status=415, body=core.DataSource(inline_string=answer)),
        response_headers_to_add=[replaced("content-type", "application/json")],
        typed_per_filter_config={GUNZIP: off, BODY: off},
    )


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
    return http_filter(GUNZIP, message)


def removed_at_the_door(*names: str) -> list[core.TypedExtensionConfig]:
    """Removes what no client may say, before anything reads it; nothing without names."""
    if not names:
        return []
    message = early.HeaderMutation(mutations=[mutation.HeaderMutation(remove=name) for name in names])
    name = "envoy.http.early_header_mutation.header_mutation"
    return [core.TypedExtensionConfig(name=name, typed_config=PackedMessage.pack(message))]
