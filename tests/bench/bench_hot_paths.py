"""Parse, decide and encode, each against what one would otherwise use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from prometheus_client.parser import text_string_to_metric_families

from bench.timing import Result, compare
from gpuxds.fleet.endpoint import Endpoint, Gpu, MetricsTargets
from gpuxds.policy.loader import load_text
from gpuxds.scoring.contract import PoolMemory
from gpuxds.scoring.facts import facts_of
from gpuxds.scoring.pipeline import decide
from gpuxds.scoring.tokens import token_means
from gpuxds.signals.model import Signal
from gpuxds.signals.presets import presets
from gpuxds.signals.reader import PageReader
from gpuxds.signals.store import Store, rules_of
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.wire import xds_pb2 as pb
from support.pages import vllm_page

GPUS = ("H100-80", "A100-80", "A100-40", "L40S", "L4")
POLICY = "version: 1\npools: [{name: p, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]\n"


def parse() -> Iterator[Result]:
    """One engine page."""
    page = vllm_page()
    text = page.decode()
    reader = PageReader(presets()["vllm"], 5.0)
    clock = iter(range(1, 10_000_000))
    yield compare(
        f"read a {len(page) / 1000:.0f} kB vLLM page into signals", lambda: reader.read(page, float(next(clock))),
        "prometheus-client's parser, parse only", lambda: list(text_string_to_metric_families(text)),
        repeats=100, peer_repeats=20,
    )  # fmt: skip


def fleet_of(count: int) -> list[Endpoint]:
    """Endpoints of all GPU types in turn."""
    memory = {"H100-80": 80, "A100-80": 80, "A100-40": 40, "L40S": 48, "L4": 24}
    return [
        Endpoint(
            f"e{n}", "p", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 8000,
            Gpu(GPUS[n % 5], memory[GPUS[n % 5]]), 256,
            MetricsTargets("http://x"), ip=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
        )
        for n in range(count)
    ]  # fmt: skip


def decision(count: int = 10_000) -> Iterator[Result]:
    """One decision over a pool, against the same rule for one endpoint at a time."""
    policy = load_text(POLICY, "bench").policy
    pool, rng = policy.pools[0], np.random.default_rng(1)

    def prepared(size: int) -> tuple[Store, object]:
        endpoints = tuple(fleet_of(size))
        store = Store(rules_of(policy.signals))
        store.sync([endpoint.id for endpoint in endpoints])
        for endpoint in endpoints:
            load = {Signal.RUNNING: float(rng.integers(0, 200)), Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}
            store.record(endpoint.id, load, 1000.0)
        return store, facts_of(pool, endpoints, policy.gpu_models)

    def run(store: Store, facts: object) -> None:
        view = store.view(facts.ids, 1000.5)  # type: ignore[attr-defined]
        decide(policy, pool, facts, view, PoolMemory(), {}, 1, 1000.5, token_means(view))  # type: ignore[arg-type]

    large, single = prepared(count), prepared(1)

    def one_by_one() -> None:
        for _ in range(count):
            run(*single)

    yield compare(
        f"view and decide {count:,} endpoints", lambda: run(*large),
        f"the same, {count:,} pools of one endpoint", one_by_one,
        rounds=2, repeats=5, peer_repeats=1,
    )  # fmt: skip


def encode(count: int = 10_000) -> Iterator[Result]:
    """An assignment whose weights all changed."""
    endpoints = fleet_of(count)
    weights = np.arange(1, count + 1)
    health, in_eds = np.ones(count, dtype=np.int64), np.ones(count, dtype=np.bool_)
    encoder = AssignmentEncoder("p")
    encoder.encode(endpoints, weights, health, in_eds)

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

    def ours() -> None:
        encoder.encode(endpoints, weights, health, in_eds)

    yield compare(f"encode {count:,} changed weights", ours, "upb: build and serialise", by_upb, peer_repeats=3)
    part = compare(
        f"encode {count:,} changed weights", ours, f"betterproto2, {count // 10:,} endpoints x10",
        lambda: by_betterproto(count // 10), rounds=2, peer_repeats=1,
    )  # fmt: skip
    yield dataclasses.replace(part, peer_s=10 * part.peer_s)
