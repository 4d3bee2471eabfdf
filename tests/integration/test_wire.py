"""The protocol with real clients: Envoy in both modes, and gRPC without a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from google.protobuf.any_pb2 import Any as AnyMessage

from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.events import Nacked
from gpuxds.discovery.server import AdsServer
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, Snapshot
from gpuxds.snapshot.versions import resource, resource_set
from gpuxds.wire import xds_pb2 as pb
from support.ads import assignment, policy_of, serving, snapshot_of, with_resource
from support.certificates import make_certificates
from support.stack import free_ports
from support.waiting import until

pytestmark = [pytest.mark.real("envoy"), pytest.mark.timeout(90)]

MODES = pytest.mark.parametrize("sotw", [False, True], ids=["incremental", "state of the world"])


@MODES
async def test_envoy_takes_everything_and_each_push_of_weights(tmp_path: Path, sotw: bool) -> None:
    policy = policy_of({"a": [7001, 7002], "b": [7003]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy(state_of_the_world=sotw)
        await served.settled()
        for weight in (5, 4_000_000, 2**31):
            served.publish(snapshot_of(policy, {"a": [weight, 1]}))
            await served.settled()
            assert await served.hosts("a") == {7001: weight, 7002: 1}
        assert not [event for _, event in served.events if isinstance(event, Nacked)]
        assert await served.stat("listener_manager.total_listeners_active") == 1


@MODES
async def test_a_changed_cluster_is_warm_at_once_although_its_endpoints_are_the_same(
    tmp_path: Path, sotw: bool
) -> None:
    """E3, E4, C25 on the real Envoy."""
    policy = policy_of({"a": [7001, 7002]}, free_ports(1)[0])
    other = policy.model_copy(
        update={"pools": [pool.model_copy(update={"protocol": "http2"}) for pool in policy.pools]}
    )
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy(state_of_the_world=sotw)
        await served.settled()
        served.publish(snapshot_of(other))
        await served.settled(2.0)

        async def warm() -> bool:
            return await served.stat("cluster_manager.warming_clusters") == 0

        await until(warm, 0.5, "nothing is warming")
        assert await served.stat("cluster_manager.cluster_modified") == 1
        assert len(await served.hosts("a")) == 2


@MODES
async def test_a_rejected_cluster_is_recorded_with_envoys_words_and_not_sent_again(
    tmp_path: Path, sotw: bool
) -> None:
    """C12, C40: one NACK, no loop, and everything else goes on."""
    policy = policy_of({"a": [7001, 7002]}, free_ports(1)[0])
    bad_message = cluster_v3.Cluster(name="bad", type=cluster_v3.ClusterDiscoveryType.EDS)
    bad = resource("bad", CLUSTER, bytes(bad_message))
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy(state_of_the_world=sotw)
        await served.settled()
        served.publish(with_resource(snapshot_of(policy), CLUSTER, bad))

        def nacks() -> list[Nacked]:
            return [event for _, event in served.events if isinstance(event, Nacked)]

        await until(nacks, 5, "Envoy rejects the cluster")
        for weight in (7, 8, 9):
            served.publish(with_resource(snapshot_of(policy, {"a": [weight, 1]}), CLUSTER, bad))

            async def applied(wanted: int = weight) -> bool:
                return (await served.hosts("a")).get(7001) == wanted

            await until(applied, 2, "weights still reach Envoy")
        assert len(nacks()) == 1
        assert "bad" in nacks()[0].names
        status = next(t for t in served.server.proxies()[0].types if t.type_url == CLUSTER)
        assert "bad" in status.nack_message
        assert not status.in_sync
        rejected = await served.stat("cluster_manager.cds.update_rejected")
        assert rejected == 1
        served.publish(snapshot_of(policy, {"a": [10, 1]}))
        await served.settled()


@MODES
async def test_a_rejected_assignment_leaves_the_last_good_one_and_the_other_pool_goes_on(
    tmp_path: Path, sotw: bool
) -> None:
    """E13: weight 0 rejects a whole assignment, which is why we never send one; made here by hand."""
    policy = policy_of({"a": [7001, 7002], "b": [7003]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy(state_of_the_world=sotw)
        await served.settled()
        message = pb.ClusterLoadAssignment.FromString(
            AnyMessage.FromString(snapshot_of(policy).of(ENDPOINTS).resources["a"].any_bytes).value
        )
        message.endpoints[0].lb_endpoints[0].load_balancing_weight.value = 0
        bad = resource("a", ENDPOINTS, message.SerializeToString())
        served.publish(with_resource(snapshot_of(policy), ENDPOINTS, bad))
        await until(lambda: [e for _, e in served.events if isinstance(e, Nacked)], 5, "Envoy rejects it")
        served.publish(with_resource(snapshot_of(policy, {"b": [77]}), ENDPOINTS, bad))

        async def other_goes_on() -> bool:
            return await served.hosts("b") == {7003: 77}

        await until(other_goes_on, 2, "pool b gets its weights")
        assert await served.hosts("a") == {7001: 1000, 7002: 1000}
        assert len([e for _, e in served.events if isinstance(e, Nacked)]) == 1


@MODES
async def test_an_empty_assignment_empties_the_cluster(tmp_path: Path, sotw: bool) -> None:
    """E11: this is how a pool loses its last endpoint."""
    policy = policy_of({"a": [7001]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy(state_of_the_world=sotw)
        await served.settled()
        assert await served.hosts("a") == {7001: 1000}
        served.publish(with_resource(snapshot_of(policy), ENDPOINTS, assignment("a", [])))

        async def empty() -> bool:
            return await served.hosts("a") == {}

        await until(empty, 2, "the cluster is empty")


@MODES
async def test_an_envoy_that_reconnects_keeps_its_endpoints_and_learns_what_changed_meanwhile(
    tmp_path: Path, sotw: bool
) -> None:
    """C7, C26, C37, C38: the server is replaced by another one on the same port."""
    policy = policy_of({"a": [7001, 7002]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as first:
        await first.start_envoy(state_of_the_world=sotw)
        await first.settled()
        await first.server.stop(0.0)
        port = first.server.port
        async with replaced(port) as second:
            changed = policy.model_copy(
                update={"pools": [pool.model_copy(update={"protocol": "http2"}) for pool in policy.pools]}
            )
            second.publish({"all": snapshot_of(changed)})
            await until(lambda: bool(second.proxies()), 5, "Envoy is back")
            assert await until(lambda: second.settled(0.1), 5, "Envoy is in sync")

            async def warm() -> bool:
                return await first.stat("cluster_manager.warming_clusters") == 0

            await until(warm, 0.5, "nothing is warming")
            assert await first.hosts("a") == {7001: 1000, 7002: 1000}
            assert await first.stat("cluster.a.membership_change") <= 2


@contextlib.asynccontextmanager
async def replaced(port: int) -> AsyncIterator[AdsServer]:
    """Another server on the port of one that was stopped."""
    server = AdsServer(f"127.0.0.1:{port}", credentials=Credentials(), group_of=lambda _: "all", clock=time.time)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.1)


async def test_nothing_is_sent_before_the_first_snapshot_so_a_configured_envoy_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    """C6."""
    policy = policy_of({"a": [7001, 7002]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as first:
        await first.start_envoy()
        await first.settled()
        await first.server.stop(0.0)
        async with replaced(first.server.port) as second:
            await until(lambda: bool(second.proxies()), 5, "Envoy is back")
            await asyncio.sleep(0.5)
            assert await first.hosts("a") == {7001: 1000, 7002: 1000}
            assert await first.stat("cluster_manager.cluster_removed") == 0


@pytest.mark.real("openssl")
async def test_mutual_tls_with_certificates_that_rotate(tmp_path: Path) -> None:
    make_certificates(tmp_path, "one")
    ca, cert, key = (tmp_path / f"one-{part}.pem" for part in ("ca", "cert", "key"))
    policy = policy_of({"a": [7001]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy), credentials=Credentials(cert, key, ca)) as served:
        await served.start_envoy("good", ca_file=str(ca), cert_file=str(cert), key_file=str(key))
        await served.settled()
        await served.start_envoy("no-certificate", ca_file=str(ca))
        make_certificates(tmp_path, "two")
        for part in ("cert", "key"):
            (tmp_path / f"two-{part}.pem").rename(tmp_path / f"one-{part}.pem")
        (tmp_path / "two-ca.pem").rename(ca)
        await served.start_envoy("after-rotation", ca_file=str(ca), cert_file=str(cert), key_file=str(key))
        await until(lambda: len(served.server.proxies()) == 2, 10, "the one with the new certificate is connected")
        assert {proxy.node_id for proxy in served.server.proxies()} == {"good", "after-rotation"}


async def test_a_bearer_token_is_asked_for_and_may_rotate(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    policy = policy_of({"a": [7001]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy), credentials=Credentials(token_file=token)) as served:
        await served.start_envoy("right", token="first")
        await served.settled()
        await served.start_envoy("wrong", token="guess")
        await until(lambda: served.server.refused > 0, 10, "the wrong token is refused")
        token.write_text("second\n")
        await served.start_envoy("rotated", token="second")
        await until(lambda: len(served.server.proxies()) == 2, 10, "the new token is accepted")
        assert {proxy.node_id for proxy in served.server.proxies()} == {"right", "rotated"}


PROXYLESS_CLIENT = """
import grpc, sys, json
channel = grpc.insecure_channel("xds:///a")
call = channel.unary_unary("/test.Echo/Who", request_serializer=None, response_deserializer=None)
print(json.dumps([call(b"", timeout=10, wait_for_ready=True).decode() for _ in range(int(sys.argv[1]))]))
"""


async def test_a_grpc_client_without_a_proxy_follows_the_same_server(tmp_path: Path) -> None:
    """Names are asked for one by one, state of the world only; round robin, since it knows no least request."""
    backends: list[grpc.aio.Server] = []
    ports: list[int] = []
    for _ in range(2):
        backend = grpc.aio.server()
        backend.add_generic_rpc_handlers((Who(ports),))
        ports.append(backend.add_insecure_port("127.0.0.1:0"))
        await backend.start()
        backends.append(backend)
    try:
        policy = policy_of({"a": ports, "b": [7003]})
        async with serving(tmp_path, snapshot_of(policy)) as served:
            bootstrap = {
                "xds_servers": [
                    {
                        "server_uri": f"127.0.0.1:{served.server.port}",
                        "channel_creds": [{"type": "insecure"}],
                        "server_features": ["xds_v3"],
                    }
                ],
                "node": {"id": "proxyless"},
            }
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROXYLESS_CLIENT, "40",
                env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            answered = json.loads((await asyncio.wait_for(client.communicate(), 30))[0])
            assert len(answered) == 40
            assert {answer for answer in answered if answered.count(answer) >= 10} == {str(port) for port in ports}
            assert not [event for _, event in served.events if isinstance(event, Nacked)]
    finally:
        for backend in backends:
            await backend.stop(0)


class Who(grpc.GenericRpcHandler):
    """Answers with the port it was reached at."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.index = len(ports)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def who(_: bytes, __: object) -> bytes:
            return str(self.ports[self.index]).encode()

        return grpc.unary_unary_rpc_method_handler(who)


async def test_health_and_reflection_answer_beside_ads(tmp_path: Path) -> None:
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    policy = policy_of({"a": [7001]})
    async with serving(tmp_path) as served:
        address = f"127.0.0.1:{served.server.port}"
        ads = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=ads))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            served.publish(snapshot_of(policy))

            async def up() -> bool:
                checked = await stub.Check(health_pb2.HealthCheckRequest(service=ads))
                return bool(checked.status == health_pb2.HealthCheckResponse.SERVING)

            await until(up, 2, "ADS is serving once there is a snapshot")

        def describe() -> list[str]:
            with grpc.insecure_channel(address) as plain:
                pool = DescriptorPool(ProtoReflectionDescriptorDatabase(plain))
                return [method.name for method in pool.FindServiceByName(ads).methods]

        assert await asyncio.to_thread(describe) == ["StreamAggregatedResources", "DeltaAggregatedResources"]


async def test_removing_an_assignment_keeps_the_endpoints(tmp_path: Path) -> None:
    """C42: incremental; this is why a drain never relies on `removed_resources`."""
    policy = policy_of({"a": [7001]}, free_ports(1)[0])
    async with serving(tmp_path, snapshot_of(policy)) as served:
        await served.start_envoy()
        await served.settled()
        served.publish(Snapshot({**snapshot_of(policy).sets, ENDPOINTS: resource_set([])}))
        updates = await served.stat("cluster.a.update_success")
        await served.settled()
        await asyncio.sleep(0.5)
        assert await served.hosts("a") == {7001: 1000}
        assert await served.stat("cluster.a.update_success") >= updates
