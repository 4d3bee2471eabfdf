"""The server on a real socket, with clients that misbehave in ways a session alone cannot show."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource as process_resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gpuxds.discovery import stream as stream_module
from gpuxds.discovery.events import Acked
from gpuxds.discovery.loads import LoadBook, without_node
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, Resource, Snapshot
from gpuxds.snapshot.versions import resource, resource_set
from gpuxds.wire import xds_pb2 as pb
from protocol.conversation import snapshot
from support.ads import serving
from support.waiting import until

SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
LOADS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"


@contextlib.asynccontextmanager
async def channel_to(port: int, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    settings = [("grpc.use_local_subchannel_pool", 1), *options.items()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=settings) as channel:
        yield channel


def subscribe(node: str, type_url: str = ENDPOINTS, names: tuple[str, ...] = ("a",)) -> bytes:
    """A first state-of-the-world request."""
    request = pb.DiscoveryRequest(node=pb.Node(id=node), type_url=type_url, resource_names=names)
    return request.SerializeToString()


def ack(message: bytes, names: tuple[str, ...] = ("a",)) -> bytes:
    """Accept a response."""
    response = pb.DiscoveryResponse.FromString(message)
    return pb.DiscoveryRequest(
        type_url=response.type_url, resource_names=names,
        version_info=response.version_info, response_nonce=response.nonce,
    ).SerializeToString()  # fmt: skip


async def open_stream(channel: grpc.aio.Channel, first: bytes, method: str = SOTW) -> Any:
    """A stream on which something was said."""
    call: Any = channel.stream_stream(method)()
    await call.write(first)
    return call


def big(version: str, size: int = 300_000) -> Snapshot:
    """A snapshot whose assignment is as large as one of 10,000 endpoints."""
    content: Resource = resource("a", ENDPOINTS, version.encode() * (size // len(version)))
    return Snapshot({**snapshot().sets, ENDPOINTS: resource_set([content])})


async def test_a_thousand_streams_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    """C5: half-closed, cancelled and dropped ones."""
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:

        async def round_of(count: int) -> None:
            for number in range(count):
                call = await open_stream(channel, subscribe(f"n{number}"))
                await call.read()
                if number % 2:
                    await call.done_writing()
                    assert await call.read() is grpc.aio.EOF
                else:
                    call.cancel()

        await round_of(200)
        before = process_resource.getrusage(process_resource.RUSAGE_SELF).ru_maxrss
        await round_of(800)
        await until(lambda: not served.server.streams, 10, "no stream is left")
        grown_kb = process_resource.getrusage(process_resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kb < 30_000
        assert served.server.proxies() == []


async def test_a_protocol_error_ends_the_stream_with_its_status(tmp_path: Path) -> None:
    """C1, C3: what is wrong, in words the operator of the proxy can use."""
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        call = await open_stream(channel, pb.DiscoveryRequest(type_url=CLUSTER).SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "node.id" in (refused.value.details() or "")
        call = await open_stream(channel, b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_larger_than_the_limit_ends_the_stream(tmp_path: Path) -> None:
    """C64: message size is bounded."""
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        call = await open_stream(channel, subscribe("n", names=("x" * 1000,) * 5000))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_client_that_stops_reading_is_closed_and_slows_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C61, C62, C63"""
    monkeypatch.setattr(stream_module, "STALL_S", 1.0)
    async with serving(tmp_path, big("0")) as served:
        stalled: list[None] = []
        served.server.hooks.on_stalled = lambda: stalled.append(None)
        async with channel_to(served.server.port) as slow, channel_to(served.server.port) as quick:
            deaf = await open_stream(slow, pb.DeltaDiscoveryRequest(
                node=pb.Node(id="deaf"), type_url=ENDPOINTS, resource_names_subscribe=["a"]
            ).SerializeToString(), DELTA)  # fmt: skip
            listener = await open_stream(quick, subscribe("quick"))
            await listener.write(ack(await listener.read()))
            again = pb.DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=["a"]).SerializeToString()

            async def ask_without_reading() -> None:
                with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    for _ in range(400):
                        await deaf.write(again)
                        await asyncio.sleep(0.001)

            asking = asyncio.ensure_future(ask_without_reading())
            for version in range(1, 11):
                served.publish(big(str(version)))
                message = await asyncio.wait_for(listener.read(), 5)
                assert pb.DiscoveryResponse.FromString(message).resources[0].value.startswith(str(version).encode())
                await listener.write(ack(message))
            await until(lambda: stalled, 20, "the deaf client is closed")
            asking.cancel()
            assert {proxy.node_id for proxy in served.server.proxies()} == {"quick"}


async def test_a_client_that_acknowledges_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C62, C52: and one that owes only its clusters' ACK is not, since Envoy holds that back."""
    monkeypatch.setattr(stream_module, "ACK_S", 0.4)
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        mute = await open_stream(channel, subscribe("mute"))
        warming = await open_stream(channel, subscribe("warming", CLUSTER, ()))
        await mute.read()
        await warming.read()
        with pytest.raises(grpc.aio.AioRpcError) as closed:
            await asyncio.wait_for(mute.read(), 5)
        assert closed.value.code() is grpc.StatusCode.ABORTED
        assert {proxy.node_id for proxy in served.server.proxies()} == {"warming"}


async def test_a_client_that_acknowledges_nothing_is_closed_while_others_are_served_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C62: a stream that is woken all the time looks at its client, too."""
    monkeypatch.setattr(stream_module, "ACK_S", 0.4)
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        mute = await open_stream(channel, subscribe("mute"))
        await mute.read()

        def gone() -> bool:
            served.publish(snapshot(endpoints={"a": str(next(versions))}))
            return not served.server.streams

        versions = itertools.count(2)
        await until(gone, 5, "the mute client is disconnected")


async def test_streams_are_written_the_same_bytes_and_a_repetition_has_a_nonce_of_its_own(tmp_path: Path) -> None:
    """C10, C34"""
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        one = await open_stream(channel, subscribe("one"))
        other = await open_stream(channel, subscribe("other"))
        first, same = await one.read(), await other.read()
        assert first == same
        again = pb.DiscoveryRequest(type_url=ENDPOINTS, resource_names=["a"])
        await one.write(again.SerializeToString())
        before, after = pb.DiscoveryResponse.FromString(first), pb.DiscoveryResponse.FromString(await one.read())
        assert after.nonce
        assert after.nonce != before.nonce
        assert (after.version_info, after.resources) == (before.version_info, before.resources)


async def test_a_flood_of_requests_on_one_stream_does_not_starve_another(tmp_path: Path) -> None:
    """C64"""
    async with (
        serving(tmp_path, snapshot()) as served,
        channel_to(served.server.port) as noisy,
        channel_to(served.server.port) as quiet,
    ):
        flood = await open_stream(noisy, subscribe("noisy"))
        calm = await open_stream(quiet, subscribe("calm"))
        await calm.write(ack(await calm.read()))
        stale = pb.DiscoveryRequest(
            type_url=ENDPOINTS, resource_names=["a"], response_nonce="stale"
        ).SerializeToString()

        async def shout() -> None:
            while True:
                await flood.write(stale)

        shouting = asyncio.ensure_future(shout())
        try:
            for version in range(2, 22):
                served.publish(snapshot(endpoints={"a": str(version)}))
                message = await asyncio.wait_for(calm.read(), 5)
                assert pb.DiscoveryResponse.FromString(message).resources[0].value == f"a@{version}".encode()
                await calm.write(ack(message))
        finally:
            shouting.cancel()


@pytest.mark.timeout(120)
async def test_three_thousand_streams_at_once_are_all_served(tmp_path: Path) -> None:
    """C65, C63"""
    async with serving(tmp_path, snapshot()) as served, contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_to(served.server.port)) for _ in range(30)]

        async def one(number: int) -> Any:
            call = await open_stream(channels[number % 30], subscribe(f"n{number}"))
            await call.write(ack(await call.read()))
            return call

        calls = await asyncio.gather(*(one(number) for number in range(3000)))
        await until(lambda: len(served.events) == 3000, 30, "all acknowledged")
        assert len(served.server.streams) == 3000
        served.publish(snapshot(endpoints={"a": "2"}))
        answers = await asyncio.gather(*(call.read() for call in calls))
        assert {pb.DiscoveryResponse.FromString(answer).resources[0].value for answer in answers} == {b"a@2"}
        assert all(isinstance(event, Acked) for _, event in served.events)
        for call in calls:
            call.cancel()


async def test_load_reports_add_up_over_envoys_and_their_node_is_not_parsed(tmp_path: Path) -> None:
    async with serving(tmp_path, snapshot()) as served, channel_to(served.server.port) as channel:
        taken: list[Any] = []
        served.server.hooks.on_loads = lambda loads: taken.append({load.address: load for load in loads})
        node = (
            b"\x0a" + bytes([0x80 | (61_000 & 0x7F), 0x80 | (61_000 >> 7 & 0x7F), 61_000 >> 14]) + b"\xff" * 61_000
        )
        calls = []
        for active, errors in ((3, 0), (4, 2)):
            report = pb.LoadStatsRequest()
            stats = report.cluster_stats.add(cluster_name="a").upstream_locality_stats.add()
            line = stats.upstream_endpoint_stats.add(
                total_requests_in_progress=active, total_issued_requests=5, total_error_requests=errors
            )
            line.address.socket_address.address, line.address.socket_address.port_value = "10.0.0.1", 8000
            report.cluster_stats.add(cluster_name="not ours").upstream_locality_stats.add()
            call = await open_stream(channel, node + report.SerializeToString(), LOADS)
            asked = pb.LoadStatsResponse.FromString(await call.read())
            assert asked.report_endpoint_granularity
            assert asked.load_reporting_interval.ToMilliseconds() == 1000
            calls.append(call)
            await until(lambda: len(taken) == len(calls), 5, "the report is taken")
        (load,) = taken[-1].values()
        assert (load.active, load.issued, load.errors, load.error_streak, load.news) == (7, 10, 2, 2, True)
        calls[0].cancel()
        await until(lambda: len(served.server.book.active) == 1, 5, "the stream is forgotten")


@pytest.mark.parametrize("message", [b"", b"\x12\x00", b"\x0a", b"\x0a\x05ab", b"\x0a\xff\xff\xff\xff"])
def test_a_report_that_is_cut_short_is_no_reason_to_fail(message: bytes) -> None:
    assert isinstance(without_node(message), bytes)


def test_a_streak_of_failures_ends_with_answers_and_survives_the_odd_late_one() -> None:
    book = LoadBook()

    def report(ok: int, errors: int) -> int:
        message = pb.LoadStatsRequest()
        stats = message.cluster_stats.add(cluster_name="a").upstream_locality_stats.add()
        line = stats.upstream_endpoint_stats.add(total_successful_requests=ok, total_error_requests=errors)
        line.address.socket_address.address, line.address.socket_address.port_value = "10.0.0.1", 8000
        return book.take(1, message, {"a"})[0].error_streak

    assert [report(5, 0), report(0, 2), report(1, 2), report(0, 0), report(3, 1)] == [0, 2, 4, 4, 0]


def test_an_endpoint_that_is_left_out_has_nothing_in_flight_and_is_told_about_once() -> None:
    book = LoadBook()

    def report(stream: int, active: int) -> list[tuple[int, bool]]:
        message = pb.LoadStatsRequest()
        if active:
            stats = message.cluster_stats.add(cluster_name="a").upstream_locality_stats.add()
            line = stats.upstream_endpoint_stats.add(total_requests_in_progress=active)
            line.address.socket_address.address, line.address.socket_address.port_value = "10.0.0.1", 8000
        return [(load.active, load.news) for load in book.take(stream, message, {"a"})]

    assert report(1, 3) == [(3, False)]
    assert report(2, 4) == [(7, False)]
    assert report(1, 0) == [(4, False)]
    assert report(1, 0) == []
    book.close(2)
    assert report(1, 1) == [(1, False)]


def test_the_clusters_of_a_pool_add_up_per_endpoint() -> None:
    book = LoadBook()
    message = pb.LoadStatsRequest()
    for cluster, active in (("a", 2), ("a/large", 3), ("b", 9)):
        stats = message.cluster_stats.add(cluster_name=cluster).upstream_locality_stats.add()
        line = stats.upstream_endpoint_stats.add(total_requests_in_progress=active, total_issued_requests=active)
        line.address.socket_address.address, line.address.socket_address.port_value = "10.0.0.1", 8000
    found = {load.pool: (load.active, load.issued) for load in book.take(1, message, {"a", "a/large", "b"})}
    assert found == {"a": (5, 5), "b": (9, 9)}


def test_failures_of_a_server_that_runs_or_answers_something_are_no_sign_of_death() -> None:
    book = LoadBook()

    def report(stream: int, ok: int, errors: int, active: int) -> int:
        message = pb.LoadStatsRequest()
        stats = message.cluster_stats.add(cluster_name="a").upstream_locality_stats.add()
        line = stats.upstream_endpoint_stats.add(
            total_successful_requests=ok, total_error_requests=errors, total_requests_in_progress=active
        )
        line.address.socket_address.address, line.address.socket_address.port_value = "10.0.0.1", 8000
        return book.take(stream, message, {"a"})[0].dead_streak

    assert report(1, 2, 30, 4) == 0, "full: it answers and runs"
    assert report(1, 0, 30, 4) == 0, "full of long requests"
    assert report(2, 0, 30, 0) == 0, "full of another proxy's requests"
    assert report(1, 4, 9, 0) == 0, "it answered the last ones"
    assert [report(1, 0, 2, 0), report(2, 0, 2, 0)] == [2, 4], "dead"
