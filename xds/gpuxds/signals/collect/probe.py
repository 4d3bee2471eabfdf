"""Asks a serving port whether anybody is there, when its metrics have fallen silent.

Silent metrics alone are our blindness. A refused connection says that nothing listens; a timeout may be the
network, so it takes several. A host that cannot be reached at all counts as a timeout: the fault may be ours. The
certificate is not checked, since nothing is told and any answer is one; a name without an address says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from enum import Enum

import aiohttp

from gpuxds.fleet.endpoint import Endpoint


class Answer(Enum):
    """What a probe found."""

    ALIVE = "answered"
    REFUSED = "refused"
    SILENT = "timed out"
    UNKNOWN = "its name has no address"


async def probe(session: aiohttp.ClientSession, endpoint: Endpoint, timeout_s: float) -> Answer:
    """One question to the health URL, or a TCP connect where there is none."""
    try:
        async with asyncio.timeout(timeout_s):
            if endpoint.health_url is None:
                return await connect(endpoint)
            async with session.get(endpoint.health_url, ssl=False, allow_redirects=False) as response:
                return Answer.ALIVE if response.status < 500 else Answer.SILENT
    except ConnectionRefusedError:
        return Answer.REFUSED
    except (aiohttp.ClientConnectorDNSError, socket.gaierror):
        return Answer.UNKNOWN
    except (aiohttp.ClientSSLError, ssl.SSLError):
        return Answer.ALIVE
    except aiohttp.ClientConnectorError as error:
        return Answer.REFUSED if isinstance(error.os_error, ConnectionRefusedError) else Answer.SILENT
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Answer.SILENT


async def connect(endpoint: Endpoint) -> Answer:
    """Open and close a TCP connection. Raises OSError."""
    _, writer = await asyncio.open_connection(endpoint.ip or endpoint.host, endpoint.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Answer.ALIVE
