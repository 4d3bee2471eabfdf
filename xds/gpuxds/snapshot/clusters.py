"""A pool as an Envoy cluster.

Endpoints come over ADS. Panic routing is off, since it would send requests to draining endpoints when all of
them drain. Every cluster names round robin as a second policy: gRPC clients without a proxy take the first
policy they know, and they do not know least request.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/cluster/v3/cluster.proto
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.load_balancing_policies.common import v3 as lb_common
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request import v3 as least_request
from envoy_data_plane.envoy.extensions.load_balancing_policies.maglev import v3 as maglev
from envoy_data_plane.envoy.extensions.load_balancing_policies.ring_hash import v3 as ring_hash
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin import v3 as round_robin
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.policy.model import OutlierSpec, PoolSpec
from gpuxds.policy.requests import RetrySpec
from gpuxds.scoring.registry import LbChoice, lb_of
from gpuxds.snapshot.capacity import guarded_limits
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, Resource
from gpuxds.snapshot.retries import retry_budget
from gpuxds.snapshot.versions import resource

HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
UPSTREAM_IDLE_S = 4.0
"""Connections idle for this long are closed by Envoy. vLLM's HTTP server closes its end after 5 s; whoever
closes first decides whether a request can run into a connection that is just closing."""
FEWEST_REQUESTS = 1024
"""Smallest limit of concurrent requests of a cluster; Envoy's own default."""
MOST_REQUESTS = 2**30
HEADROOM = 4
"""Concurrent requests of a cluster may reach this many times what its endpoints run at once: engines queue
well, and the limit is there to stop a runaway, not to shape load."""
ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)


def cluster(pool: PoolSpec, name: str, capacity: float) -> Resource:
    """A cluster of a pool, the shared one or a slice's, whose endpoints run `capacity` requests at once together;
    those that wait at guards included."""
    message = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=ADS),
        connect_timeout=timedelta(seconds=pool.timeouts.connect),
        load_balancing_policy=balancing(lb_of(pool.strategy)),
        common_lb_config=cluster_v3.ClusterCommonLbConfig(healthy_panic_threshold=envoy_type.Percent(value=0.0)),
        circuit_breakers=guarded_limits(capacity) if pool.guard else circuit_breakers(capacity, pool.retries),
        outlier_detection=outliers(pool.outlier_detection),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: PackedMessage.pack(protocol(pool.protocol))},
        lrs_server=core.ConfigSource(self=core.SelfConfigSource()),
    )
    return resource(name, CLUSTER, bytes(message), refers_to=((ENDPOINTS, name),))


def balancing(choice: LbChoice) -> cluster_v3.LoadBalancingPolicy:
    """The strategy's policy, then round robin for clients that do not know it."""
    fallback = packed("round_robin", round_robin.RoundRobin())
    policies = [preferred(choice)] + ([fallback] if choice.kind != "round_robin" else [])
    return cluster_v3.LoadBalancingPolicy(
        policies=[cluster_v3.LoadBalancingPolicyPolicy(typed_extension_config=policy) for policy in policies]
    )


def preferred(choice: LbChoice) -> core.TypedExtensionConfig:
    """Envoy's configuration of one load-balancing policy."""
    balance = lb_common.ConsistentHashingLbConfig(hash_balance_factor=choice.hash_balance_factor)
    match choice.kind:
        case "least_request":
            methods = least_request.LeastRequestSelectionMethod
            message: Any = least_request.LeastRequest(
                selection_method=methods.N_CHOICES if choice.choices else methods.FULL_SCAN,
                choice_count=choice.choices or None,
                active_request_bias=core.RuntimeDouble(
                    default_value=choice.bias, runtime_key="gpuxds.least_request_bias"
                ),
            )
        case "round_robin":
            message = round_robin.RoundRobin()
        case "ring_hash":
            message = ring_hash.RingHash(
                hash_function=ring_hash.RingHashHashFunction.XX_HASH, consistent_hashing_lb_config=balance
            )
        case "maglev":
            message = maglev.Maglev(consistent_hashing_lb_config=balance)
    return packed(choice.kind, message)


def packed(name: str, message: Any) -> core.TypedExtensionConfig:
    """An Envoy extension under its full name."""
    return core.TypedExtensionConfig(
        name=f"envoy.load_balancing_policies.{name}", typed_config=PackedMessage.pack(message)
    )


def circuit_breakers(capacity: float, retries: RetrySpec) -> cluster_v3.CircuitBreakers:
    """Limits from capacity, in powers of two so that a changing fleet rarely changes the cluster."""
    limit = FEWEST_REQUESTS
    while limit < min(HEADROOM * capacity, MOST_REQUESTS):
        limit *= 2
    return cluster_v3.CircuitBreakers(
        thresholds=[
            cluster_v3.CircuitBreakersThresholds(
                max_connections=limit,
                max_pending_requests=limit,
                max_requests=limit,
                retry_budget=retry_budget(retries),
            )
        ]
    )


def outliers(spec: OutlierSpec) -> cluster_v3.OutlierDetection:
    """Envoy's own ejection by consecutive failures; judgement by statistics is the control plane's."""
    return cluster_v3.OutlierDetection(
        consecutive_5xx=spec.consecutive_5xx or None,
        enforcing_consecutive_5xx=100 if spec.consecutive_5xx else 0,
        enforcing_success_rate=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=spec.base_ejection_time),
        max_ejection_time=timedelta(seconds=max(300.0, spec.base_ejection_time)),
        max_ejection_percent=spec.max_ejection_percent,
    )


def protocol(name: str) -> upstream.HttpProtocolOptions:
    """HTTP/1.1 or HTTP/2 to the endpoints."""
    explicit = upstream.HttpProtocolOptionsExplicitHttpConfig(
        **(
            {"http2_protocol_options": core.Http2ProtocolOptions()}
            if name == "http2"
            else {"http_protocol_options": core.Http1ProtocolOptions()}
        )
    )
    return upstream.HttpProtocolOptions(
        explicit_http_config=explicit,
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=UPSTREAM_IDLE_S)),
    )
