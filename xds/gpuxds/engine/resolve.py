"""Host names to IP addresses, because Envoy's EDS takes addresses only; asked again on a timer.

A lookup that fails changes nothing: an endpoint keeps the address it had (`fleet.roster.resolved` is sticky),
since a DNS outage says nothing about a GPU server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping

INTERVAL_S = 10.0
TIMEOUT_S = 3.0


async def lookup(hosts: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Addresses of each host, sorted; empty where the lookup failed."""
    unique = sorted(set(hosts))
    answers = await asyncio.gather(*(lookup_one(host) for host in unique))
    return dict(zip(unique, answers, strict=True))


async def lookup_one(host: str) -> tuple[str, ...]:
    """Addresses of one host, sorted; empty when the lookup failed or took too long."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            infos = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return ()
    return tuple(sorted({str(info[4][0]) for info in infos}))
