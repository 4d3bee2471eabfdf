"""What the guard of one endpoint is told: a listener, the engine behind it, and who may run, wait or must go.

A guard is an Envoy on the GPU host that every request to the engine passes, through two listeners. In the first, a
Lua script (`envoy/guard.lua`) decides in good order: who runs, who waits in line, who is sent elsewhere. Behind it,
inside the same Envoy, stands the wall: the engine's cluster lets `max_requests` through, all workers together. So
the limit holds even where the script does not run as it should, and while an edit replaces the first listener,
whose old connections go on under the old script.

A cluster that is replaced counts from 0. So the engine's is the same for every guard and every policy, and stays
when the endpoint goes: its limit is a runtime value, which Envoy looks up at each request, its address comes as an
assignment, and it speaks the protocol in which it is spoken to.

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
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.requests import GuardSpec
from gpuxds.snapshot.bootstrap import GUARD_LAYER
from gpuxds.snapshot.capacity import ELSEWHERE, REFUSED, patient_attempt, refused, retry_after_s
from gpuxds.snapshot.clusters import ADS, HTTP_PROTOCOL_OPTIONS, UPSTREAM_IDLE_S
from gpuxds.snapshot.listeners import HEADERS_TIMEOUT_S, router_filter
from gpuxds.snapshot.lua import http_filter, text_of
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, RUNTIME, Resource, Snapshot
from gpuxds.snapshot.priorities import script_lines
from gpuxds.snapshot.replies import has_flag
from gpuxds.snapshot.retries import BODY_BYTES
from gpuxds.snapshot.versions import resource, resource_set
from gpuxds.wire import xds_pb2

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
CONNECT_S = 5.0
"""TCP connect to the engine, which is on the same host: longer than its kernel waits to ask again."""
MOST = 2**30
MOST_REQUESTS = f"circuit_breakers.{ENGINE}.default.max_requests"
"""Runtime value that takes the place of the limit in the engine's cluster."""


def snapshot_of_guard(policy: Policy, pool: PoolSpec, endpoint: Endpoint, peers: int) -> Snapshot:
    """Everything the guard of `endpoint` is told; `peers` is the number of endpoints in its pool, with itself."""
    if pool.guard is None or endpoint.ip is None:
        return NOTHING
    clusters = [engine_cluster(), internal_cluster(WALL, http2=pool.protocol == "http2")]
    listeners = [
        guard_listener(policy, pool.guard, endpoint, patient_attempt(pool, peers)),
        wall_listener(),
    ]
    if pool.guard.queue is not None:
        clusters.append(internal_cluster(PAUSE))
        listeners.append(pause_listener())
    address = core.SocketAddress(address=endpoint.ip, port_value=endpoint.port)
    return told(endpoint.capacity, core.Address(socket_address=address), clusters, listeners)


def told(
    most_requests: int, engine: core.Address | None, clusters: Sequence[Resource], listeners: Sequence[Resource]
) -> Snapshot:
    """All a guard is told; `most_requests` pass the wall at once, to the engine at this address."""
    made = {
        RUNTIME: [limit(most_requests)],
        CLUSTER: clusters,
        ENDPOINTS: [resource(ENGINE, ENDPOINTS, bytes(assignment(ENGINE, engine)))],
        LISTENER: listeners,
    }
    return Snapshot({type_url: resource_set(found) for type_url, found in made.items()})


def limit(most_requests: int) -> Resource:
    """The runtime layer."""
    message = xds_pb2.Runtime(name=GUARD_LAYER)
    message.layer[MOST_REQUESTS] = most_requests
    return resource(GUARD_LAYER, RUNTIME, message.SerializeToString(deterministic=True))


@cache
def engine_cluster() -> Resource:
    """The engine, whatever it is: nothing in here may depend on a policy."""
    either = upstream.HttpProtocolOptionsUseDownstreamHttpConfig(
        http_protocol_options=core.Http1ProtocolOptions(), http2_protocol_options=core.Http2ProtocolOptions()
    )
    protocol = upstream.HttpProtocolOptions(
        use_downstream_protocol_config=either,
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=UPSTREAM_IDLE_S)),
    )
    message = cluster_v3.Cluster(
        name=ENGINE,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=ADS),
        connect_timeout=timedelta(seconds=CONNECT_S),
        circuit_breakers=without_limits(),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: PackedMessage.pack(protocol)},
    )
    return resource(ENGINE, CLUSTER, bytes(message), refers_to=((ENDPOINTS, ENGINE),))


@cache
def internal_cluster(name: str, *, http2: bool = False) -> Resource:
    """The way to a listener of this name in the same Envoy; each request on a connection of its own, so that none
    goes to a listener that an edit replaced."""
    explicit = upstream.HttpProtocolOptionsExplicitHttpConfig(
        **(
            {"http2_protocol_options": core.Http2ProtocolOptions()}
            if http2
            else {"http_protocol_options": core.Http1ProtocolOptions()}
        )
    )
    once = upstream.HttpProtocolOptions(
        explicit_http_config=explicit,
        common_http_protocol_options=core.HttpProtocolOptions(max_requests_per_connection=1),
    )
    address = core.Address(envoy_internal_address=core.EnvoyInternalAddress(server_listener_name=name))
    message = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=assignment(name, address),
        circuit_breakers=without_limits(),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: PackedMessage.pack(once)},
    )
    return resource(name, CLUSTER, bytes(message))


def assignment(name: str, address: core.Address | None) -> endpoint_v3.ClusterLoadAssignment:
    """An assignment of one address, or of none."""
    hosts = [] if address is None else [endpoint_v3.LbEndpoint(endpoint=endpoint_v3.Endpoint(address=address))]
    return endpoint_v3.ClusterLoadAssignment(
        cluster_name=name, endpoints=[endpoint_v3.LocalityLbEndpoints(lb_endpoints=hosts)] if hosts else []
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


NOTHING = told(0, None, [engine_cluster()], [])
"""For a guard whose endpoint there is not: it listens nowhere, and still counts what it let through."""
