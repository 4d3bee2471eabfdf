"""Host names to IP addresses, in threads that hold nobody up.

A name server that hangs blocks `getaddrinfo` for many seconds. In asyncio's shared pool a few such names would
keep everything else that needs a thread waiting, and the process from ending; here each lookup has a daemon
thread of its own, and a name that is still being looked up is not looked up twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

TIMEOUT_S = 3.0
running: dict[str, asyncio.Future[tuple[str, ...]]] = {}


async def addresses(host: str, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Addresses of a host, sorted; empty when the lookup failed or takes longer."""
    future = running.get(host)
    if future is None or future.get_loop() is not asyncio.get_running_loop():
        future = running[host] = asyncio.get_running_loop().create_future()
        threading.Thread(target=look_up, args=(host, future), name=f"dns {host}", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.shield(future), timeout_s)
    except TimeoutError:
        return ()


def look_up(host: str, future: asyncio.Future[tuple[str, ...]]) -> None:
    """Ask the system and tell the loop; runs in a thread."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = tuple(sorted({str(info[4][0]) for info in infos}))
    except (OSError, UnicodeError):
        found = ()
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        future.get_loop().call_soon_threadsafe(tell, host, future, found)


def tell(host: str, future: asyncio.Future[tuple[str, ...]], found: tuple[str, ...]) -> None:
    """The answer is there."""
    if running.get(host) is future:
        del running[host]
    if not future.done():
        future.set_result(found)


class Resolver(AbstractResolver):
    """For aiohttp: the same lookups."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Where to connect to. Raises OSError when the name has no address."""
        del family
        found = await addresses(host)
        if not found:
            raise OSError(None, f"the name {host} has no address, or its name server does not answer")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in sorted(found, key=lambda address: (":" in address, address))
        ]

    async def close(self) -> None:
        """Nothing is held."""


def connector(**settings: object) -> aiohttp.TCPConnector:
    """A connector with these lookups."""
    return aiohttp.TCPConnector(resolver=Resolver(), **settings)  # type: ignore[arg-type]
