"""What the guard of one endpoint is told: a listener, the engine behind it, and who may run, wait or must go.

A guard is an Envoy on the GPU host that every request to the engine passes, through two listeners. In the first, a
Lua script (`envoy/guard.lua`) decides in good order: who runs, who waits in line, who is sent elsewhere. Behind
it, inside the same Envoy, stands the wall: the engine's cluster lets `max_requests` through, all workers together.
So the limit holds even where the script does not run as it should, and while an edit replaces the first listener,
whose old connections go on under the old script. The wall itself is never replaced, since a new one would count
from 0: its limit is a runtime value, which Envoy looks up at each request.

A script cannot sleep, but it can call: the listener `pause` answers after as many milliseconds as it is asked to.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from functools import cache

from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.common.fault import v3 as common_fault
from envoy_data_plane.envoy.extensions.filters.http.fault import v3 as fault
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.service.runtime import v3 as runtime
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as PackedMessage
from envoy_data_plane.google.protobuf import Struct, Value

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.requests import GuardSpec
from gpuxds.snapshot.bootstrap import GUARD_LAYER
from gpuxds.snapshot.capacity import ELSEWHERE, REFUSED, patient_attempt, refused, retry_after_s
from gpuxds.snapshot.clusters import HTTP_PROTOCOL_OPTIONS, protocol
from gpuxds.snapshot.listeners import HEADERS_TIMEOUT_S, router_filter
from gpuxds.snapshot.lua import http_filter, text_of
from gpuxds.snapshot.model import CLUSTER, LISTENER, RUNTIME, Resource, Snapshot
from gpuxds.snapshot.priorities import script_lines
from gpuxds.snapshot.replies import has_flag
from gpuxds.snapshot.retries import BODY_BYTES
from gpuxds.snapshot.versions import resource, resource_set

FIRST_AGAIN_S, SLOWEST_AGAIN_S = 0.025, 0.25
"""Pauses between tries of what the wall refused."""
ENGINE = "engine"
"""Name of the guard's cluster that is the engine."""
GUARD = "guard"
"""Name of the guard's listener."""
PAUSE = "pause"
"""Name of the listener, and its cluster, that answers after a while."""
WALL = "wall"
"""Name of the listener, and its cluster, that lets no more than the capacity through."""
MOST = 2**30
MOST_REQUESTS = f"circuit_breakers.{ENGINE}.default.max_requests"
"""Runtime value that takes the place of the limit in the engine's cluster."""


def snapshot_of_guard(policy: Policy, pool: PoolSpec, endpoint: Endpoint, peers: int) -> Snapshot:
    """Everything the guard of `endpoint` is told; `peers` is the number of endpoints in its pool, with itself."""
    if pool.guard is None or endpoint.ip is None:
        return NOTHING
    clusters = [engine_cluster(pool, endpoint), internal_cluster(WALL)]
    listeners = [
        guard_listener(policy, pool.guard, endpoint, patient_attempt(pool, peers)),
        wall_listener(),
    ]
    if pool.guard.queue is not None:
        clusters.append(internal_cluster(PAUSE))
        listeners.append(pause_listener())
    return told([limit(endpoint.capacity)], clusters, listeners)


def told(limits: Sequence[Resource], clusters: Sequence[Resource], listeners: Sequence[Resource]) -> Snapshot:
    """All a guard is told."""
    made = {RUNTIME: limits, CLUSTER: clusters, LISTENER: listeners}
    return Snapshot({type_url: resource_set(found) for type_url, found in made.items()})


def limit(most_requests: int | None) -> Resource:
    """The runtime layer: how many requests pass the wall at once; None: without a wall."""
    values = {} if most_requests is None else {MOST_REQUESTS: Value(number_value=most_requests)}
    message = runtime.Runtime(name=GUARD_LAYER, layer=Struct(fields=values))
    return resource(GUARD_LAYER, RUNTIME, bytes(message))


NOTHING = told([limit(None)], [], [])
"""For a guard whose endpoint there is not: it listens nowhere."""


def engine_cluster(pool: PoolSpec, endpoint: Endpoint) -> Resource:
    """The engine. Its limit is a runtime value, so that a changed capacity leaves the cluster and its count as
    is."""
    address = core.SocketAddress(address=endpoint.ip or "", port_value=endpoint.port)
    message = cluster_v3.Cluster(
        name=ENGINE,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=pool.timeouts.connect),
        load_assignment=one_host(ENGINE, core.Address(socket_address=address)),
        circuit_breakers=without_limits(),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: PackedMessage.pack(protocol(pool.protocol))},
    )
    return resource(ENGINE, CLUSTER, bytes(message))


@cache
def internal_cluster(name: str) -> Resource:
    """The way to a listener of this name in the same Envoy; each request on a connection of its own, so that none
    goes to a listener that an edit replaced."""
    once = upstream.HttpProtocolOptions(
        explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        ),
        common_http_protocol_options=core.HttpProtocolOptions(max_requests_per_connection=1),
    )
    message = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=one_host(
            name, core.Address(envoy_internal_address=core.EnvoyInternalAddress(server_listener_name=name))
        ),
        circuit_breakers=without_limits(),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: PackedMessage.pack(once)},
    )
    return resource(name, CLUSTER, bytes(message))


def one_host(name: str, address: core.Address) -> endpoint_v3.ClusterLoadAssignment:
    """An assignment of one address."""
    host = endpoint_v3.LbEndpoint(endpoint=endpoint_v3.Endpoint(address=address))
    return endpoint_v3.ClusterLoadAssignment(
        cluster_name=name, endpoints=[endpoint_v3.LocalityLbEndpoints(lb_endpoints=[host])]
    )


def without_limits() -> cluster_v3.CircuitBreakers:
    """Limits out of the way."""
    return cluster_v3.CircuitBreakers(
        thresholds=[
            cluster_v3.CircuitBreakersThresholds(
                max_connections=MOST, max_pending_requests=MOST, max_requests=MOST, max_retries=MOST
            )
        ]
    )


def guard_listener(policy: Policy, spec: GuardSpec, endpoint: Endpoint, patience: int) -> Resource:
    """Where proxies send the endpoint's requests."""
    filters = [script(policy, spec, endpoint.capacity, patience), router_filter()]
    address = core.SocketAddress(address=spec.address, port_value=endpoint.guard_port or 0)
    message = listener_v3.Listener(
        name=GUARD,
        address=core.Address(socket_address=address),
        filter_chains=[http_chain(forwarding(GUARD, WALL, filters, patiently(spec)))],
        stat_prefix=GUARD,
    )
    return resource(GUARD, LISTENER, bytes(message), refers_to=((CLUSTER, WALL),))


@cache
def wall_listener() -> Resource:
    """Where the cluster's limit refuses, so that the first listener may try again.

    Envoy's own headers are left out: one of them says that a refusal must not be tried again.
    """
    silent = http_filter("envoy.filters.http.router", router.Router(suppress_envoy_headers=True))
    manager = forwarding(WALL, ENGINE, [silent])
    manager.local_reply_config = hcm.LocalReplyConfig(mappers=[refused(has_flag("UO"), 1, ELSEWHERE)])
    message = listener_v3.Listener(
        name=WALL,
        internal_listener=listener_v3.ListenerInternalListenerConfig(),
        filter_chains=[http_chain(manager)],
    )
    return resource(WALL, LISTENER, bytes(message), refers_to=((CLUSTER, ENGINE),))


def patiently(spec: GuardSpec) -> route_v3.RetryPolicy | None:
    """What the script let through and the wall refused is tried again for as long as a request may wait.

    That happens after an edit of queue or priorities: the script in the new listener counts from 0, and the wall
    still counts what the old one let through. Without it such requests would be refused instead of waiting.
    """
    if spec.queue is None:
        return None
    told = matcher.StringMatcher(exact=ELSEWHERE)
    mean_pause_s = SLOWEST_AGAIN_S / 2  # Envoy draws each pause at random, up to the longest
    return route_v3.RetryPolicy(
        retry_on="retriable-headers",
        retriable_headers=[route_v3.HeaderMatcher(name=REFUSED, string_match=told)],
        num_retries=math.ceil(spec.queue.timeout / mean_pause_s),
        retry_back_off=route_v3.RetryPolicyRetryBackOff(
            base_interval=timedelta(seconds=FIRST_AGAIN_S), max_interval=timedelta(seconds=SLOWEST_AGAIN_S)
        ),
    )


def forwarding(
    name: str, cluster: str, filters: list[hcm.HttpFilter], again: route_v3.RetryPolicy | None = None
) -> hcm.HttpConnectionManager:
    """HTTP to one cluster, without timeouts: those are the proxies'."""
    forward = route_v3.RouteAction(
        cluster=cluster, timeout=timedelta(0), idle_timeout=timedelta(0), retry_policy=again
    )
    return hcm.HttpConnectionManager(
        stat_prefix=name,
        route_config=one_route(name, route_v3.Route(match=route_v3.RouteMatch(prefix="/"), route=forward)),
        http_filters=filters,
        generate_request_id=False,
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        request_headers_timeout=timedelta(seconds=HEADERS_TIMEOUT_S),
        stream_idle_timeout=timedelta(0),
    )


@cache
def pause_listener() -> Resource:
    """Answers each request after the time its header says."""
    delay = common_fault.FaultDelay(
        header_delay=common_fault.FaultDelayHeaderDelay(),
        percentage=envoy_type.FractionalPercent(numerator=100),
    )
    answer = route_v3.Route(
        match=route_v3.RouteMatch(prefix="/"), direct_response=route_v3.DirectResponseAction(status=200)
    )
    manager = hcm.HttpConnectionManager(
        stat_prefix=PAUSE,
        route_config=one_route(PAUSE, answer),
        http_filters=[http_filter("envoy.filters.http.fault", fault.HttpFault(delay=delay)), router_filter()],
    )
    message = listener_v3.Listener(
        name=PAUSE,
        internal_listener=listener_v3.ListenerInternalListenerConfig(),
        filter_chains=[http_chain(manager)],
    )
    return resource(PAUSE, LISTENER, bytes(message))


def one_route(name: str, route: route_v3.Route) -> route_v3.RouteConfiguration:
    """All requests take one route."""
    again = route.route is not None and route.route.retry_policy is not None
    host = route_v3.VirtualHost(
        name=name, domains=["*"], routes=[route], request_body_buffer_limit=BODY_BYTES if again else None
    )
    return route_v3.RouteConfiguration(name=name, virtual_hosts=[host])


def http_chain(manager: hcm.HttpConnectionManager) -> listener_v3.FilterChain:
    """A listener's only filter."""
    return listener_v3.FilterChain(
        filters=[listener_v3.Filter(name="http", typed_config=PackedMessage.pack(manager))]
    )


def script(policy: Policy, spec: GuardSpec, capacity: int, patience: int) -> hcm.HttpFilter:
    """The script, with the numbers of this endpoint."""
    queue = spec.queue
    numbers = {
        "CAPACITY": str(capacity),
        "MAX_WAITING": str(queue.max_waiting if queue else 0),
        "TIMEOUT_MS": f"{1000 * queue.timeout:.0f}" if queue else "0",
        "PATIENT_ATTEMPT": str(patience),
        "RETRY_AFTER_S": f'"{retry_after_s(spec)}"',
        "REFUSED_HEADER": f'"{REFUSED}"',
    }
    lines = [f"local {name} = {value}" for name, value in numbers.items()]
    code = "\n".join([*lines, *script_lines(policy.priorities, capacity), text_of("guard")])
    return http_filter("envoy.filters.http.lua", lua.Lua(default_source_code=core.DataSource(inline_string=code)))
