"""Host names to IP addresses, because Envoy's EDS takes addresses only; asked again on a timer.

A lookup that fails changes nothing: an endpoint keeps the address it had (`fleet.roster.resolved` is sticky, and
answers survive restarts), since a DNS outage says nothing about a GPU server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from gpuxds.signals.collect.dns import addresses

INTERVAL_S = 10.0


async def lookup(hosts: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Addresses of each host, sorted; empty where the lookup failed."""
    unique = sorted(set(hosts))
    answers = await asyncio.gather(*(addresses(host) for host in unique))
    return dict(zip(unique, answers, strict=True))
