"""Lookups that hang hold up nobody."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from gpuxds.signals.collect import dns


async def test_a_name_server_that_hangs_costs_its_own_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        if host == "slow":
            release.wait(10)
        return [(socket.AF_INET, 0, 0, "", ("10.0.0.2", 0)), (socket.AF_INET, 0, 0, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    slow, quick = await asyncio.gather(dns.addresses("slow", 0.05), dns.addresses("quick", 5))
    assert slow == ()
    assert quick == ("10.0.0.1", "10.0.0.2")
    assert await dns.addresses("slow", 0.01) == ()
    assert asked.count("slow") == 1, "a name that is being looked up was looked up again"
    waiting = asyncio.ensure_future(dns.addresses("slow", 5))
    await asyncio.sleep(0)
    release.set()
    assert await waiting == ("10.0.0.1", "10.0.0.2")


async def test_aiohttp_is_told_addresses_ipv4_first_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"both": [("::1",), ("127.0.0.1",)], "none": []}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *_, **__: [(0, 0, 0, "", place) for place in answers[host]]
    )
    found = await dns.Resolver().resolve("both", 80)
    assert [entry["host"] for entry in found] == ["127.0.0.1", "::1"]
    with pytest.raises(OSError, match="no address"):
        await dns.Resolver().resolve("none")
