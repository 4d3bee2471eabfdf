"""From publish to received, over real sockets, with clients in another process."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from bench.bench_hot_paths import fleet_of
from gpuxds.snapshot.endpoints import AssignmentEncoder
from gpuxds.snapshot.model import ENDPOINTS, Snapshot
from gpuxds.snapshot.versions import resource_set
from support.ads import serving
from support.waiting import until

PUSHES = 20
CLIENT = """
import asyncio, json, sys, time, grpc
sys.path.insert(0, "xds")
from gpuxds.wire import xds_pb2 as pb
PORT, STREAMS, PUSHES = map(int, sys.argv[1:4])
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
async def one(channel, number, out):
    call = channel.stream_stream(METHOD)()
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    node = pb.Node(id=f"n{number}")
    await call.write(pb.DiscoveryRequest(node=node, type_url=kind, resource_names=["p"]).SerializeToString())
    for _ in range(PUSHES + 1):
        message = await call.read()
        out.append(time.time())
        nonce = pb.DiscoveryResponse.FromString(message).nonce
        ack = pb.DiscoveryRequest(type_url=kind, resource_names=["p"], response_nonce=nonce)
        await call.write(ack.SerializeToString())
async def main():
    out = []
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{PORT}", options=options) for _ in range(min(STREAMS, 50))]
    await asyncio.gather(*(one(channels[n % len(channels)], n, out) for n in range(STREAMS)))
    print(json.dumps(out))
asyncio.run(main())
"""


async def push(endpoints: int, streams: int) -> AsyncIterator[str]:
    """Every weight changes on each push; the next one comes when all streams have acknowledged."""
    fleet = fleet_of(endpoints)
    encoder = AssignmentEncoder("p")
    health, in_eds = np.ones(endpoints, dtype=np.int64), np.ones(endpoints, dtype=np.bool_)

    def snapshot(step: int) -> Snapshot:
        weights = np.arange(1, endpoints + 1) + step
        return Snapshot({ENDPOINTS: resource_set([encoder.encode(fleet, weights, health, in_eds)])})

    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), snapshot(0)) as served:
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, str(served.server.port), str(streams), str(PUSHES),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await until(lambda: len(served.events) >= streams, 30, "all streams have a first answer")
            published, handed_over, cpu = [], [], time.process_time()
            for step in range(1, PUSHES + 1):
                found = snapshot(step)
                published.append(time.time())
                served.publish(found)
                handed_over.append(time.time() - published[-1])
                await until(
                    lambda: len(served.events) >= streams * len(published) + streams, 30, "all acknowledged"
                )
            cpu = time.process_time() - cpu
            received = sorted(json.loads((await client.communicate())[0]))[streams:]
    delays = sorted(at - published[index // streams] for index, at in enumerate(received))
    size = len(encoder.encode(fleet, np.arange(1, endpoints + 1), health, in_eds).any_bytes)
    yield (
        f"push {endpoints:,} endpoints ({size / 1000:.0f} kB) to {streams} streams: received after "
        f"{1000 * delays[len(delays) // 2]:.0f} ms median, {1000 * delays[int(0.99 * len(delays))]:.0f} ms p99; "
        f"publish() took {1e6 * sorted(handed_over)[PUSHES // 2]:.0f} µs (median), "
        f"{1e6 * max(handed_over):.0f} µs at most; "
        f"{1000 * cpu / PUSHES / streams:.2f} ms of server CPU per stream and push"
    )
