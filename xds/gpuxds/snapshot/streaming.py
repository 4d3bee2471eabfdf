"""Which requests are streamed, read from their bodies inside Envoy, and the total time of those that are not.

A total timeout would cut a stream that makes progress, and whether an answer will be a stream is said in the body
only (`"stream": true`). So a small Lua filter looks for that (`envoy/streaming.lua`), notes what it found in a
header that routes can match, and hands Envoy the stated time of a request that is not streamed. It is off but on
the routes of pools whose policy needs it; requests to other pools are never read.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import PoolSpec
from gpuxds.policy.units import LONGEST_S
from gpuxds.snapshot.lua import Literal, source

FILTER = "gpuxds.streaming"
"""Name of the filter in the chain, by which routes configure it."""
HEADER = "x-gpuxds-stream"
"""`false` for a request that is certainly not streamed, for the routes of pools with hedging; absent otherwise."""


def reads_bodies(pool: PoolSpec) -> bool:
    """Whether a pool's policy asks for something that streams must be spared."""
    return bool(pool.timeouts.request or pool.timeouts.header or pool.hedging)


def streaming_filters(pools: Iterable[PoolSpec]) -> list[hcm.HttpFilter]:
    """The filter, off wherever a route does not give it a script; none when no pool needs it."""
    if not any(reads_bodies(pool) for pool in pools):
        return []
    return [hcm.HttpFilter(name=FILTER, typed_config=PackedMessage.pack(lua.Lua()), disabled=True)]


def with_script(pool: PoolSpec, routes: list[route_v3.Route]) -> list[route_v3.Route]:
    """A pool's routes, with the filter's script where the pool needs it."""
    if reads_bodies(pool):
        code = core.DataSource(inline_string=script(pool))
        for route in routes:
            route.typed_per_filter_config[FILTER] = PackedMessage.pack(lua.LuaPerRoute(source_code=code))
    return routes


def script(pool: PoolSpec) -> str:
    """The script, with what the pool's policy says above it."""
    spec = pool.timeouts
    settings: dict[str, Literal] = {"hedging": pool.hedging is not None, "header": spec.header or None}
    settings |= {"request_s": spec.request, "buffer": spec.buffer, "longest_s": LONGEST_S}
    return source(["streaming"], settings)
