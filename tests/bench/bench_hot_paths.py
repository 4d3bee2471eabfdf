"""Decide and encode, each against what one would otherwise use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3

from bench.fleets import fleet_of
from bench.tables import FIGURES, Table, figure
from bench.timing import compare
from gpuxds.policy.loader import load_text
from gpuxds.scoring.contract import PoolMemory
from gpuxds.scoring.facts import facts_of
from gpuxds.scoring.pipeline import decide
from gpuxds.scoring.tokens import token_means
from gpuxds.signals.model import Signal
from gpuxds.signals.store import Store, rules_of
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.wire import xds_pb2 as pb

POLICY = "version: 1\npools: [{name: p, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]\n"


def prepared_decision(count: int) -> Callable[[], object]:
    """One view and decision over a pool of this size."""
    policy = load_text(POLICY, "bench").policy
    pool, rng = policy.pools[0], np.random.default_rng(1)
    endpoints = tuple(fleet_of(count))
    store = Store(rules_of(policy.signals))
    store.sync([endpoint.id for endpoint in endpoints])
    for endpoint in endpoints:
        load = {Signal.RUNNING: float(rng.integers(0, 200)), Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}
        store.record(endpoint.id, load, 1000.0)
    facts = facts_of(pool, endpoints, policy.gpu_models)

    def run() -> object:
        view = store.view(facts.ids, 1000.5)
        return decide(policy, pool, facts, view, PoolMemory(), {}, 1, 1000.5, token_means(view))

    return run


def decision(count: int = 10_000) -> tuple[str, ...]:
    """One decision over a pool, against the same rule for one endpoint at a time."""
    large, single = prepared_decision(count), prepared_decision(1)

    def one_by_one() -> None:
        for _ in range(count):
            single()

    found = compare(large, one_by_one, rounds=2, repeats=5, peer_repeats=1)
    beside = f"{count:,} pools of one endpoint: {1000 * found.peer_s:,.0f} ms, ×{found.ratio:,.0f}"
    return figure(f"view and decide {count:,} endpoints", 1000 * found.ours_s, "ms", 10, beside)


def prepared_encoding(count: int) -> Callable[[], object]:
    """An assignment of this size whose weights all changed."""
    fleet = tuple(fleet_of(count))
    weights, health = np.arange(1, count + 1), np.ones(count, dtype=np.int64)
    in_eds = np.ones(count, dtype=np.bool_)
    encoder = AssignmentEncoder("p")
    encoder.encode(fleet, weights, health, in_eds)
    return lambda: encoder.encode(fleet, weights, health, in_eds)


def encode(count: int = 10_000) -> tuple[str, ...]:
    """An assignment whose weights all changed."""
    endpoints, weights = fleet_of(count), np.arange(1, count + 1)
    ours = prepared_encoding(count)

    def by_upb() -> bytes:
        message = pb.ClusterLoadAssignment(cluster_name="p")
        group = message.endpoints.add()
        for endpoint, weight in zip(endpoints, weights.tolist(), strict=True):
            added = group.lb_endpoints.add(health_status=1)
            added.endpoint.address.socket_address.address = endpoint.ip or ""
            added.endpoint.address.socket_address.port_value = endpoint.port
            added.load_balancing_weight.value = weight
        return message.SerializeToString()

    def by_betterproto(some: int) -> bytes:
        lb_endpoints = [
            endpoint_v3.LbEndpoint(
                endpoint=endpoint_v3.Endpoint(
                    address=core.Address(socket_address=core.SocketAddress(address=e.ip or "", port_value=e.port))
                ),
                load_balancing_weight=weight,
            )
            for e, weight in zip(endpoints[:some], weights.tolist(), strict=False)
        ]
        group = endpoint_v3.LocalityLbEndpoints(lb_endpoints=lb_endpoints)
        return bytes(endpoint_v3.ClusterLoadAssignment(cluster_name="p", endpoints=[group]))

    upb = compare(ours, by_upb, peer_repeats=3)
    slow = compare(ours, lambda: by_betterproto(count // 10), rounds=2, peer_repeats=1)
    beside = (
        f"upb, built and serialised: {1000 * upb.peer_s:.1f} ms, ×{upb.ratio:.0f}; "
        f"envoy-data-plane (10 × {count // 10:,}): {10_000 * slow.peer_s:,.0f} ms, ×{10 * slow.ratio:,.0f}"
    )
    return figure(f"encode {count:,} changed weights", 1000 * min(upb.ours_s, slow.ours_s), "ms", 1, beside)


def hot_paths() -> Table:
    """Both."""
    return Table("Decide and encode", "make bench ARGS=hot", FIGURES, (decision(), encode()))
