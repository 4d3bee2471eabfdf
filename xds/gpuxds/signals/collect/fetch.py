"""One HTTP GET of a metric page, bounded in time and bytes, with TLS and a token from a file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gpuxds.errors import SignalError

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What a policy says about fetching pages of one kind."""

    timeout_s: float
    max_bytes: int
    ca_file: str | None = None
    bearer_token_file: str | None = None


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trust for https pages: the given certificates, else the system's. Raises SignalError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SignalError(f"ca_file {ca_file}: {error}") from error


async def fetch(
    session: aiohttp.ClientSession, url: str, options: FetchOptions, context: ssl.SSLContext | None
) -> bytes:
    """The page's body. Raises SignalError, aiohttp.ClientError, OSError or TimeoutError."""
    headers = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}
    if options.bearer_token_file:
        headers["Authorization"] = f"Bearer {token_of(options.bearer_token_file)}"
    timeout = aiohttp.ClientTimeout(total=options.timeout_s)
    async with session.get(url, headers=headers, timeout=timeout, ssl=context or True) as response:
        if response.status != 200:
            raise SignalError(f"{url}: HTTP {response.status}")
        page = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            page += chunk
            if len(page) > options.max_bytes:
                raise SignalError(f"{url}: longer than max_bytes = {options.max_bytes}")
        return bytes(page)


def token_of(path: str) -> str:
    """The token a file holds now, so that it can rotate. Raises OSError."""
    return Path(path).read_text(encoding="utf-8").strip()
