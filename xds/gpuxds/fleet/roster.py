"""Merges what the sources say into one fleet, and gives host names their addresses.

Two rules keep a working fleet working: of two endpoints with the same id or address the first stays and the
second is reported; and an address that was resolved once is kept until a lookup says something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gpuxds.errors import Problem
from gpuxds.fleet.endpoint import Endpoint, Fleet


def merge(sources: Iterable[Iterable[Endpoint]]) -> tuple[Fleet, tuple[Problem, ...]]:
    """One fleet of several sources in order of precedence, and a problem for each endpoint left out."""
    kept: dict[str, Endpoint] = {}
    by_address: dict[tuple[str, str, int], Endpoint] = {}
    problems: list[Problem] = []
    for endpoint in (endpoint for source in sources for endpoint in source):
        address = (endpoint.pool, endpoint.host, endpoint.port)
        other = kept.get(endpoint.id) or by_address.get(address)
        if other is not None:
            what = "id" if endpoint.id in kept else "address"
            text = f"has the {what} of {other.id} from {other.source}; it is left out"
            problems.append(Problem(endpoint.source, 0, 0, endpoint.id, text))
            continue
        kept[endpoint.id] = by_address[address] = endpoint
    return Fleet(tuple(kept.values())), tuple(problems)


def resolved(fleet: Fleet, answers: Mapping[str, Sequence[str]]) -> Fleet:
    """The fleet with addresses from lookups of host names; an endpoint's address moves only when it must."""
    named = [
        replace(endpoint, ip=choose(endpoint.ip, answers[endpoint.host]))
        for endpoint in fleet.endpoints
        if endpoint.ip != endpoint.host and answers.get(endpoint.host)
    ]
    return fleet.replace(named) if named else fleet


def choose(current: str | None, found: Sequence[str]) -> str:
    """The current address while the name still has it, else the first in order; IPv4 before IPv6."""
    return current if current is not None and current in found else min(found, key=lambda ip: (":" in ip, ip))
