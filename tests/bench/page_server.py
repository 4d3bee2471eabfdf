"""Fake engine pages from a process of their own: `python page_server.py [gzip]`, on every address of this machine.

One socket bound to all of 127/8 is as many servers as a fleet has endpoints, each with its own connections. Pages
are rendered once and sent as they are, so that this process costs little; counters in them grow from one to the
next. Ends with standard input.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.pages import vllm_page

VERSIONS = 8


def answers(*, compressed: bool) -> list[bytes]:
    """HTTP answers with pages whose counters grow."""
    pages = [vllm_page(seed=1, observations=50 * (1 + n)) for n in range(VERSIONS)]
    encoding = "Content-Encoding: gzip\r\n" if compressed else ""
    bodies = [gzip.compress(page, 6) if compressed else page for page in pages]
    return [
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{encoding}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]


class Pages(asyncio.Protocol):
    """One connection: every request is answered with the next page."""

    transport: asyncio.Transport

    def __init__(self, pages: list[bytes]) -> None:
        self.pages = itertools.cycle(pages)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A scraper came."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """A request without a body, whole: nobody sends more than one segment for it."""
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(next(self.pages))


async def main(*, compressed: bool) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    pages = answers(compressed=compressed)
    server = await loop.create_server(lambda: Pages(pages), "0.0.0.0", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(compressed="gzip" in sys.argv[1:]))
