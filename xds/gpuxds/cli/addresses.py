"""Addresses on the command line."""

from __future__ import annotations

from gpuxds.errors import Misuse

XDS_ADDRESS = "127.0.0.1:18000"
ADMIN_ADDRESS = "127.0.0.1:18001"


def split_address(address: str, example: str = XDS_ADDRESS) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises Misuse."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Misuse(f"{address!r} is not an address; write host:port, for example {example}")
    return host.strip("[]"), int(port)
