"""One open stream: reads requests into its session, writes what the session has to say.

Reader and writer are two tasks. The writer asks the session for the next message only when the last one was
taken by gRPC, so a slow client holds no queue of ours; one that takes nothing for `STALL_S`, or does not
acknowledge for `ACK_S`, is closed, since HTTP/2 keepalive does not notice a client that stopped reading. The
server wakes every stream now and then, so that one with nothing to say looks at its client, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from gpuxds.discovery.encoding import Bodies
from gpuxds.discovery.events import Event, ProxyStatus, Response
from gpuxds.discovery.session import Session
from gpuxds.errors import ProtocolError
from gpuxds.snapshot.model import CLUSTER, Snapshot

Context = Any
"""grpc.aio.ServicerContext, whose `read` answers bytes or `grpc.aio.EOF`; its stubs do not know the latter."""

STALL_S = 20.0
"""Longest time one message may wait to be taken by gRPC."""
ACK_S = 60.0
"""Longest time a response may stay un-acknowledged. Clusters are exempt: Envoy holds back their ACK until they
are warm."""


class Stalled(Exception):
    """A client that no longer takes or acknowledges what it is sent."""


async def first_of(*ways: Coroutine[Any, Any, object]) -> None:
    """Run several until one ends, then cancel the others; raises what the first one raised."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def look_after(streams: Collection[Stream]) -> None:
    """Wake all streams now and then, until cancelled."""
    while True:
        await asyncio.sleep(ACK_S / 4)
        for stream in streams:
            stream.wake.set()


@dataclass(eq=False, slots=True)
class Stream:
    """A session and the socket it speaks through."""

    session: Session[Any]
    context: Context
    parse: Callable[[bytes], Any]
    clock: Callable[[], float]
    peer: str
    connected_at: float
    on_identified: Callable[[Stream], None]
    on_event: Callable[[Stream, Event], None]
    bodies: Bodies
    snapshot: Snapshot | None = None
    group: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    awaited_since: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Type -> nonce and unix seconds of the response that is not yet acknowledged."""

    async def run(self, closing: asyncio.Event) -> None:
        """Serve until the client ends the stream or the server closes. Raises ProtocolError or Stalled."""
        await first_of(self.read(), self.write(), closing.wait())

    async def read(self) -> None:
        """Take in requests until the client half-closes."""
        while isinstance(message := await self.context.read(), bytes):
            self.take(message)
            del message  # the first one is 61 kB, and the next may be long in coming

    def take(self, message: bytes) -> None:
        """One request. Raises ProtocolError."""
        try:
            request = self.parse(message)
        except DecodeError as error:
            raise ProtocolError(f"not a discovery request: {error}") from error
        known = self.session.node is not None
        for event in self.session.receive(request):
            self.on_event(self, event)
        if not known:
            self.on_identified(self)
        self.wake.set()

    async def write(self) -> None:
        """Write whatever the client lacks, then wait until there may be more."""
        while True:
            response = None
            if self.snapshot is not None:
                response = self.session.next(self.snapshot, self.bodies)
            if response is None:
                await self.wait()
                continue
            self.awaited_since[response.type_url] = (response.nonce, self.clock())
            await self.send(response)

    async def wait(self) -> None:
        """Until there may be more to say. Raises Stalled when the client has not answered for too long."""
        await self.wake.wait()
        self.wake.clear()
        self.check_acks()

    async def send(self, response: Response) -> None:
        """Hand one message to gRPC. Raises Stalled when it is not taken."""
        try:
            async with asyncio.timeout(STALL_S):
                await self.context.write(response.message)
        except TimeoutError as error:
            raise Stalled(f"took no data for {STALL_S:g} s") from error

    def check_acks(self) -> None:
        """Raises Stalled when a response has been un-acknowledged for too long."""
        for type_url, (nonce, since) in self.awaited_since.items():
            awaiting = self.session.subscriptions[type_url].awaiting == nonce
            if awaiting and type_url != CLUSTER and self.clock() - since > ACK_S:
                raise Stalled(f"did not acknowledge {type_url.rpartition('.')[2]} for {ACK_S:g} s")

    def show(self, snapshot: Snapshot) -> None:
        """Put a snapshot in force for this stream; never blocks (C63)."""
        if snapshot is not self.snapshot:
            self.snapshot = snapshot
            self.wake.set()

    def status(self) -> ProxyStatus:
        """How the client stands."""
        node = self.session.node
        types = self.session.status(self.snapshot)
        return ProxyStatus(
            node_id=node.id if node else "",
            node_cluster=node.cluster if node else "",
            group=self.group,
            mode=self.session.mode,
            peer=self.peer,
            user_agent=node.user_agent if node else "",
            connected_at=self.connected_at,
            in_sync=bool(types) and all(found.in_sync for found in types),
            types=types,
        )
