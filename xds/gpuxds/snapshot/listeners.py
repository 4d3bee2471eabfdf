"""Where requests enter and which pool they go to: Envoy's HTTP listener and routes, and gRPC's without a proxy.

No timeout cuts a generation that makes progress: the route's own timeout is off, since it would cut streams, and
the idle timeout counts silence only. Requests that are not streamed may have a total (`snapshot.streaming`); how
a request is tried again is in `snapshot.retries`. The listener changes rarely; routes are a resource of their own,
so that a new pool does not touch connections.

A gRPC client without a proxy asks for a listener by the name in its URI (`xds:///POOL`); those listeners are
sent on request only, since an Envoy would reject them.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/route/v3/route_components.proto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_log
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream_log
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as PackedMessage
from envoy_data_plane.google.protobuf import Struct, Value

from gpuxds.fleet.reservation import HEADER, Reservation
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.slices import Slice
from gpuxds.policy.strategies import ConsistentHash
from gpuxds.snapshot.body import body_filters, removed_at_the_door, with_bodies
from gpuxds.snapshot.bootstrap import UPSTREAM
from gpuxds.snapshot.capacity import elsewhere, overflow
from gpuxds.snapshot.clusters import ADS
from gpuxds.snapshot.estimate import estimate_headers, estimate_replies
from gpuxds.snapshot.hedging import with_hedging
from gpuxds.snapshot.large import large_replies, large_route
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, Resource
from gpuxds.snapshot.retries import of_host, retry_policy, stuck_policy
from gpuxds.snapshot.streaming import stream_headers
from gpuxds.snapshot.telling import answer_headers
from gpuxds.snapshot.tenants import limit_filter, tenant_filters, tenant_headers
from gpuxds.snapshot.versions import resource

NAME = "gpuxds"
"""Name of the listener and of its routes."""
LONGEST_SILENCE_S = 3600.0
"""Of a downstream connection without requests."""
HEADERS_TIMEOUT_S = 10.0
"""For a client's request headers: slow ones are not language models."""

ACCESS_LOG_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "pool": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}


def listener(policy: Policy) -> Resource:
    """Envoy's HTTP listener."""
    address = core.SocketAddress(address=policy.listener.address, port_value=policy.listener.port)
    filters = [listener_v3.Filter(name="http", typed_config=PackedMessage.pack(connection_manager(policy)))]
    message = listener_v3.Listener(
        name=NAME,
        address=core.Address(socket_address=address),
        filter_chains=[listener_v3.FilterChain(filters=filters)],
    )
    return resource(NAME, LISTENER, bytes(message), refers_to=((ROUTES, NAME),))


def connection_manager(policy: Policy) -> hcm.HttpConnectionManager:
    """HTTP, with routes over ADS."""
    return hcm.HttpConnectionManager(
        stat_prefix=NAME,
        rds=hcm.Rds(config_source=ADS, route_config_name=NAME),
        early_header_mutation_extensions=removed_at_the_door(
            *estimate_headers(policy), *tenant_headers(policy), *stream_headers(policy)
        ),
        http_filters=[*limits(policy), router_filter()],
        local_reply_config=local_replies(policy),
        access_log=access_logs(policy),
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        request_headers_timeout=timedelta(seconds=HEADERS_TIMEOUT_S),
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=LONGEST_SILENCE_S)),
    )


def limits(policy: Policy) -> list[hcm.HttpFilter]:
    """What happens to a request before its route is followed, in this order."""
    return [*tenant_filters(policy), *body_filters(policy), *limit_filter(policy, "tokens")]


def local_replies(policy: Policy) -> hcm.LocalReplyConfig | None:
    """What Envoy answers by itself; None: its own words."""
    mappers = [*large_replies(policy), *estimate_replies(policy), *overflow(policy)]
    return hcm.LocalReplyConfig(mappers=mappers) if mappers else None


def router_filter() -> hcm.HttpFilter:
    """The filter that forwards; the last of every chain."""
    return hcm.HttpFilter(name="envoy.filters.http.router", typed_config=PackedMessage.pack(router.Router()))


def access_logs(policy: Policy) -> list[accesslog.AccessLog]:
    """Where Envoy logs requests: on its standard output, and to us when the policy wants to know their latency."""
    ours = [standard_output(policy)] if policy.listener.access_log else []
    return [*ours, to_us()] if policy.signals.proxy.access_logs else ours


def to_us() -> accesslog.AccessLog:
    """Batches of about a second over the connection that Envoy's bootstrap calls us by."""
    service = core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=UPSTREAM))
    common = grpc_log.CommonGrpcAccessLogConfig(
        log_name=NAME, grpc_service=service, transport_api_version=core.ApiVersion.V3
    )
    log = grpc_log.HttpGrpcAccessLogConfig(common_config=common)
    return accesslog.AccessLog(name="gpuxds", typed_config=PackedMessage.pack(log))


def standard_output(policy: Policy) -> accesslog.AccessLog:
    """One JSON line per request on standard output, with what our filters found out."""
    ours = (*tenant_headers(policy), *estimate_headers(policy))
    found = {name.removeprefix("x-gpuxds-").replace("-", "_"): f"%REQ({name})%" for name in ours}
    fields = {name: Value(string_value=what) for name, what in {**ACCESS_LOG_FIELDS, **found}.items()}
    line = core.SubstitutionFormatString(json_format=Struct(fields=fields))
    return accesslog.AccessLog(
        name="stdout", typed_config=PackedMessage.pack(stream_log.StdoutAccessLog(log_format=line))
    )


def routes(policy: Policy, pools: Sequence[PoolSpec], slices: Mapping[str, Sequence[Slice]]) -> Resource:
    """Which path prefix goes to which pool; the longest prefix first, since Envoy takes the first match. No
    endpoint sees the id of a reservation, whichever pool a request goes to."""
    ordered = sorted(pools, key=lambda pool: (-len(pool.match.prefix), pool.name))
    made = [route for pool in ordered for route in with_bodies(policy, pool, routes_of(pool, slices[pool.name]))]
    host = route_v3.VirtualHost(
        name="all",
        domains=["*"],
        routes=made,
        response_headers_to_add=answer_headers(policy.listener),
        **of_host(pools),
    )
    held = any(part.reservation for parts in slices.values() for part in parts)
    message = route_v3.RouteConfiguration(
        name=NAME,
        virtual_hosts=[host],
        validate_clusters=False,
        request_headers_to_remove=[HEADER] if held else [],
    )
    needed = [name for pool in ordered for name in (pool.name, *(part.cluster for part in slices[pool.name]))]
    return resource(NAME, ROUTES, bytes(message), refers_to=tuple((CLUSTER, name) for name in needed))


def routes_of(pool: PoolSpec, slices: Sequence[Slice]) -> list[route_v3.Route]:
    """The routes of one pool, the most particular first; the last one takes every request to its prefix."""
    reserved = [reserved_route(pool, part, part.reservation) for part in slices if part.reservation]
    others = [part.cluster for part in slices if part.reservation is None]
    large = [large_route(pool, cluster, action(pool, cluster)) for cluster in others]
    match = route_v3.RouteMatch(prefix=pool.match.prefix)
    route = route_v3.Route(name=pool.name, match=match, route=action(pool, pool.name))
    return [*reserved, *large, *with_hedging(route, pool)]


def reserved_route(pool: PoolSpec, part: Slice, reservation: Reservation) -> route_v3.Route:
    """Requests that carry the reservation's id."""
    exact = matcher.StringMatcher(exact=reservation.id)
    carried = route_v3.HeaderMatcher(name=HEADER, string_match=exact)
    return route_v3.Route(
        name=part.cluster,
        match=route_v3.RouteMatch(prefix=pool.match.prefix, headers=[carried]),
        route=action(pool, part.cluster),
    )


def action(pool: PoolSpec, cluster: str) -> route_v3.RouteAction:
    """Where requests go, and how long and how often they are tried."""
    return route_v3.RouteAction(
        cluster=cluster,
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=pool.timeouts.idle),
        retry_policy=elsewhere(pool, retry_policy(pool.retries)),
        hedge_policy=stuck_policy(pool.retries),
        hash_policy=hash_policy(pool),
        prefix_rewrite=pool.match.rewrite or "",
    )


def hash_policy(pool: PoolSpec) -> list[route_v3.RouteActionHashPolicy]:
    """What consistent hashing hashes; nothing for every other strategy."""
    if not isinstance(pool.strategy, ConsistentHash):
        return []
    if pool.strategy.cookie is not None:
        cookie = route_v3.RouteActionHashPolicyCookie(name=pool.strategy.cookie, ttl=timedelta(0))
        return [route_v3.RouteActionHashPolicy(cookie=cookie)]
    header = route_v3.RouteActionHashPolicyHeader(header_name=pool.strategy.header or "x-session-id")
    return [route_v3.RouteActionHashPolicy(header=header)]


def grpc_listener(pool: PoolSpec) -> Resource:
    """The listener a gRPC client asks for when it dials `xds:///POOL`."""
    manager = hcm.HttpConnectionManager(
        stat_prefix=pool.name,
        rds=hcm.Rds(config_source=ADS, route_config_name=pool.name),
        http_filters=[router_filter()],
    )
    message = listener_v3.Listener(
        name=pool.name, api_listener=listener_v3.ApiListener(api_listener=PackedMessage.pack(manager))
    )
    return resource(pool.name, LISTENER, bytes(message), on_request_only=True, refers_to=((ROUTES, pool.name),))


def grpc_routes(pool: PoolSpec) -> Resource:
    """All methods of `xds:///POOL` go to the pool."""
    action = route_v3.RouteAction(cluster=pool.name, hash_policy=hash_policy(pool))
    everything = route_v3.Route(match=route_v3.RouteMatch(prefix=""), route=action)
    host = route_v3.VirtualHost(name=pool.name, domains=[pool.name], routes=[everything])
    message = route_v3.RouteConfiguration(name=pool.name, virtual_hosts=[host])
    return resource(pool.name, ROUTES, bytes(message), on_request_only=True, refers_to=((CLUSTER, pool.name),))
