"""The ADS server: grpc.aio with bytes in and out, one `Stream` per connection, snapshots by group.

Streams that open before the first publication are held: an empty answer would make Envoy delete everything
it has (C6). Publishing only swaps a reference and wakes writers, so it never waits for a client (C63).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gpuxds.discovery.access_logs import Served, boiled_down
from gpuxds.discovery.credentials import Credentials, TokenCheck
from gpuxds.discovery.encoding import Bodies
from gpuxds.discovery.events import Event, Nacked, NodeInfo, ProxyStatus
from gpuxds.discovery.loads import EndpointLoad, Key, LoadBook, without_node
from gpuxds.discovery.services import ADS, ALS, LRS, STREAMS, descriptor_pool
from gpuxds.discovery.session import DeltaSession, Session, SotwSession
from gpuxds.discovery.stream import Context, Stalled, Stream, first_of, look_after
from gpuxds.errors import EnvironmentProblem, ProtocolError
from gpuxds.snapshot.model import CLUSTER, Snapshot
from gpuxds.wire import xds_pb2 as pb

log = structlog.get_logger("gpuxds")

MAX_REQUEST_BYTES = 4 * 1024 * 1024
MAX_STREAMS = 20_000
CONNECTION_AGE_S = 1800.0
"""Connections end after about this long (gRPC adds jitter), so that proxies spread over replicas and rotated
certificates take effect; a proxy that comes back with what it has is sent nothing."""
LOAD_INTERVAL_S = 1.0
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_age_ms", int(CONNECTION_AGE_S * 1000)),
    ("grpc.max_connection_age_grace_ms", 10_000),
    # With the defaults (1,000 and 3,000) a storm of reconnecting proxies is cancelled (C65).
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
]


@dataclass(slots=True)
class Hooks:
    """What the server tells its owner. Called on the event loop; must not block."""

    on_event: Callable[[NodeInfo, Event], None] = lambda _node, _event: None
    on_loads: Callable[[Sequence[EndpointLoad]], None] = lambda _loads: None
    on_served: Callable[[Mapping[Key, Served]], None] = lambda _served: None
    """A batch of access logs."""
    on_stalled: Callable[[], None] = lambda: None
    on_proxy: Callable[[NodeInfo, bool], None] = lambda _node, _connected: None
    """A proxy came (True) or went (False)."""


class AdsServer:
    """Serves snapshots to proxies until stopped."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials,
        group_of: Callable[[NodeInfo], str],
        clock: Callable[[], float],
        hooks: Hooks | None = None,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self.token = TokenCheck(credentials.token_file)
        self.group_of = group_of
        self.clock = clock
        self.hooks = hooks or Hooks()
        self.snapshots: Mapping[str, Snapshot] = {}
        self.streams: set[Stream] = set()
        self.bodies = Bodies(f"{int(clock() * 1000):x}-")
        self.book = LoadBook()
        self.numbers = itertools.count(1)
        self.refused = 0
        """Streams turned away since start."""
        self.port = 0
        self.changed = asyncio.Event()
        """Set, and replaced, whenever a proxy answered or went."""
        self.closing = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    # -- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind and listen. Raises EnvironmentProblem when the address is taken or cannot be bound."""
        self.server = grpc.aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers((Router(self),))
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = (*STREAMS, LRS, ALS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = descriptor_pool()
        pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection(names, self.server, pool)
        await self.health.set(ADS, health_pb2.HealthCheckResponse.NOT_SERVING)
        credentials = self.credentials.server_credentials()
        try:
            if credentials is None:
                self.port = self.server.add_insecure_port(self.address)
            else:
                self.port = self.server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise EnvironmentProblem(
                f"xDS address {self.address} cannot be bound (is it taken?); choose another with --xds"
            ) from error
        await self.server.start()
        self.rounds = asyncio.ensure_future(look_after(self.streams))

    async def stop(self, grace_s: float) -> None:
        """End open streams in good order, then stop."""
        if hasattr(self, "server"):
            await self.health.enter_graceful_shutdown()
            self.closing.set()
            await self.server.stop(grace_s)
        if hasattr(self, "rounds"):
            self.rounds.cancel()

    # -- publishing -------------------------------------------------------------------------------------

    def publish(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Put snapshots in force, by group. Streams write what differs from what they sent."""
        first = not self.snapshots
        if any(snapshot is not self.snapshots.get(group) for group, snapshot in snapshots.items()):
            self.bodies.clear()
        self.snapshots = snapshots
        for stream in self.streams:
            self.show(stream)
        if first:
            self.background(self.health.set(ADS, health_pb2.HealthCheckResponse.SERVING))

    def show(self, stream: Stream) -> None:
        """Give a stream its group's snapshot, once it is known who it is and once there is one."""
        if self.snapshots and stream.session.node is not None:
            stream.group = self.group_of(stream.session.node)
            stream.show(self.snapshots[stream.group])

    def background(self, coroutine: Any) -> None:
        """Run to its end; the reference keeps it from being collected."""
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- streams ----------------------------------------------------------------------------------------

    async def serve(self, session: Session[Any], parse: Callable[[bytes], Any], context: Context) -> None:
        """One discovery stream, from its first request to its end."""
        await self.admit(context)
        stream = Stream(
            session, context, parse, self.clock, context.peer(), self.clock(),
            self.identified, self.event, self.bodies,
        )  # fmt: skip
        self.streams.add(stream)
        try:
            await stream.run(self.closing)
        except ProtocolError as error:
            log.warning("stream.protocol_error", peer=stream.peer, error=str(error))
            await context.abort(grpc.StatusCode[error.status], str(error))
        except Stalled as error:
            self.hooks.on_stalled()
            log.warning("stream.stalled", peer=stream.peer, error=str(error))
            self.streams.discard(stream)
            # A socket that takes no data may not take the status either; the stream ends all the same.
            with contextlib.suppress(grpc.aio.InternalError):
                await context.abort(grpc.StatusCode.ABORTED, f"the client {error}")
        finally:
            self.streams.discard(stream)
            if session.node is not None:
                log.info("proxy.disconnected", node=session.node.id, peer=stream.peer)
                self.hooks.on_proxy(session.node, False)
            self.notify()

    async def admit(self, context: Context) -> None:
        """Turn away who may not connect."""
        if not self.token.admits(context.invocation_metadata() or ()):
            self.refused += 1
            log.warning("stream.refused", peer=context.peer(), why="no or wrong bearer token")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "send authorization: Bearer <token>")
        if len(self.streams) >= MAX_STREAMS:
            self.refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_STREAMS} streams")

    def identified(self, stream: Stream) -> None:
        """A stream said who it is."""
        node = stream.session.node
        assert node is not None
        log.info("proxy.connected", node=node.id, mode=stream.session.mode, peer=stream.peer)
        self.show(stream)
        self.hooks.on_proxy(node, True)

    def event(self, stream: Stream, event: Event) -> None:
        """An ACK or a NACK."""
        node = stream.session.node
        assert node is not None
        if isinstance(event, Nacked):
            log.error("proxy.rejected", node=node.id, type=event.type_url.rpartition(".")[2],
                      resources=list(event.names), message=event.message)  # fmt: skip
        self.hooks.on_event(node, event)
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for proxies to be in sync."""
        waiting, self.changed = self.changed, asyncio.Event()
        waiting.set()

    # -- load reports -----------------------------------------------------------------------------------

    async def take_loads(self, context: Context) -> None:
        """One load-reporting stream."""
        await self.admit(context)
        number = next(self.numbers)
        try:
            await first_of(self.read_loads(number, context), self.closing.wait())
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not a load report: {error}")
        finally:
            self.book.close(number)

    async def read_loads(self, number: int, context: Context) -> None:
        """Take in reports until the client half-closes; the first one is answered with what we want."""
        first = True
        while isinstance(message := await context.read(), bytes):
            if first:
                await context.write(load_response())
                first = False
            report = pb.LoadStatsRequest.FromString(without_node(message))
            self.hooks.on_loads(self.book.take(number, report, self.clusters()))

    async def take_logs(self, batches: AsyncIterator[bytes], context: Context) -> bytes:
        """One stream of access logs, until the proxy ends it or we do."""
        await self.admit(context)

        async def read() -> None:
            async for batch in batches:
                message = pb.StreamAccessLogsMessage.FromString(without_node(batch))
                self.hooks.on_served(boiled_down(message))

        try:
            await first_of(read(), self.closing.wait())
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not an access log: {error}")
        return pb.StreamAccessLogsResponse().SerializeToString()

    def clusters(self) -> set[str]:
        """Every cluster of every group."""
        return {name for snapshot in self.snapshots.values() for name in snapshot.of(CLUSTER).resources}

    # -- for people -------------------------------------------------------------------------------------

    def proxies(self) -> list[ProxyStatus]:
        """Every connected proxy that said who it is, by id."""
        known = [stream.status() for stream in self.streams if stream.session.node is not None]
        return sorted(known, key=lambda status: (status.node_id, status.connected_at))

    def proxies_of(self, cluster: str) -> int:
        """How many different proxies balance over a cluster."""
        following = (s.session.node for s in self.streams if s.session.follows(cluster))
        return len({node.id for node in following if node is not None})

    def groups(self) -> Counter[str]:
        """Group -> different proxies in it, of those that said who they are."""
        return Counter(
            group for group, _ in {(s.group, s.session.node.id) for s in self.streams if s.session.node is not None}
        )

    async def settled(self, timeout_s: float) -> bool:
        """Whether every connected proxy accepted all there is, within `timeout_s`; True when none is connected."""

        try:
            async with asyncio.timeout(timeout_s):
                while not all(status.in_sync for status in self.proxies()):
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


def load_response() -> bytes:
    """Asks for all clusters, once a second, per endpoint."""
    response = pb.LoadStatsResponse(send_all_clusters=True, report_endpoint_granularity=True)
    response.load_reporting_interval.FromNanoseconds(int(LOAD_INTERVAL_S * 1e9))
    return response.SerializeToString()


@dataclass(eq=False)
class Router(grpc.GenericRpcHandler):
    """Which handler serves which method."""

    server: AdsServer
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (sotw, delta, only_type) in STREAMS.items():
            self.handlers[f"/{name}/{sotw}"] = self.discovery(SotwSession, pb.DiscoveryRequest, only_type)
            self.handlers[f"/{name}/{delta}"] = self.discovery(DeltaSession, pb.DeltaDiscoveryRequest, only_type)

        async def loads(_: Any, context: Context) -> None:
            await self.server.take_loads(context)

        async def logs(batches: AsyncIterator[bytes], context: Context) -> bytes:
            return await self.server.take_logs(batches, context)

        self.handlers[f"/{LRS}/StreamLoadStats"] = grpc.stream_stream_rpc_method_handler(loads)
        self.handlers[f"/{ALS}/StreamAccessLogs"] = grpc.stream_unary_rpc_method_handler(logs)

    def discovery(self, kind: type[Session[Any]], message: Any, only_type: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that makes a session per stream."""

        async def handle(_: Any, context: Context) -> None:
            session = kind(only_type=only_type)
            await self.server.serve(session, message.FromString, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, or None."""
        return self.handlers.get(handler_call_details.method)
