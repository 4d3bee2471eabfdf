"""Many ADS clients in one process, each on a TCP connection of its own: `python ads_client.py PORT STREAMS`.

Each stream asks for the endpoints of one cluster the way Envoy does, node of 61 kB included, and acknowledges what
it gets before more is sent to it. A line on standard output says when every stream has its first answer, another,
after standard input has ended, when each version arrived. Imports no more than it must, since it shares the machine
with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[2] / "xds"))

from gpuxds.wire import xds_pb2 as pb
from gpuxds.wire.framing import framed

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
EXTENSIONS = b"".join(
    framed(9, framed(1, b"envoy.filters.http.%03d" % n) + framed(2, b"envoy.filters.http") + framed(6, 68 * b"t"))
    for n in range(516)
)
"""Envoy lists its extensions in every node: 61 kB."""


class Clients:
    """All streams of this process."""

    def __init__(self, port: int, streams: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.streams = streams
        self.started = time.time()
        self.first: list[float] = []
        """Seconds from the start to each stream's first answer."""
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        """Version -> unix seconds at which a stream had received it."""
        self.errors: list[str] = []
        self.bytes = 0
        self.configured = asyncio.Event()

    async def run(self) -> None:
        """Open all streams at once, follow them until standard input ends, report."""
        tasks = [asyncio.ensure_future(self.follow(number)) for number in range(self.streams)]
        await self.configured.wait()
        say({"configured_s": max(self.first, default=0.0), "errors": self.errors[:5]})
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()
        say({"arrivals": self.arrivals, "errors": self.errors, "bytes": self.bytes})

    async def follow(self, number: int) -> None:
        """One stream, until cancelled."""
        try:
            async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
                await self.converse(channel.stream_stream(METHOD)(wait_for_ready=True), number)
        except (grpc.RpcError, ConnectionError) as error:
            self.errors.append(str(error).replace("\n", " ")[:200])
            self.note_configured()

    async def converse(self, call: grpc.aio.StreamStreamCall[bytes, bytes], number: int) -> None:
        """Ask, then acknowledge whatever comes. Raises RpcError, or ConnectionError when the server ends it."""
        node = pb.Node(id=f"proxy-{number}", cluster="edge", user_agent_name="envoy").SerializeToString()
        ask = pb.DiscoveryRequest(type_url=ENDPOINTS, resource_names=["p"])
        await call.write(ask.SerializeToString() + framed(2, node + EXTENSIONS))
        known = False
        while isinstance(message := await call.read(), bytes):
            now = time.time()
            response = pb.DiscoveryResponse.FromString(message)
            self.bytes += len(message)
            self.arrivals[response.version_info].append(now)
            ask.version_info, ask.response_nonce = response.version_info, response.nonce
            await call.write(ask.SerializeToString())
            if not known:
                known = True
                self.first.append(now - self.started)
                self.note_configured()
        raise ConnectionError(f"the server ended the stream: {await call.details()}")

    def note_configured(self) -> None:
        """One more stream has its first answer, or will never have it."""
        if len(self.first) + len(self.errors) >= self.streams:
            self.configured.set()


def say(document: dict[str, object]) -> None:
    """A line of JSON."""
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    asyncio.run(Clients(int(sys.argv[1]), int(sys.argv[2])).run())
