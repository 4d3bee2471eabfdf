"""One HTTP GET of a metric page, bounded in time and bytes, with TLS and a token from a file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import aiohttp

from gpuxds.errors import SignalError
from gpuxds.files import read_token

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What a policy says about fetching pages of one kind."""

    timeout_s: float
    max_bytes: int
    ca_file: str | None = None
    bearer_token_file: str | None = None


@lru_cache(maxsize=16)
def tls_context(ca_file: str, modified_ns: int) -> ssl.SSLContext:
    """Trust in the certificates of a file as it was at that time. Raises OSError or ssl.SSLError."""
    del modified_ns
    return ssl.create_default_context(cafile=ca_file)


def trust(ca_file: str | None) -> ssl.SSLContext | bool:
    """What https pages are checked against: the given certificates, else the system's. Raises SignalError."""
    if ca_file is None:
        return True
    try:
        return tls_context(ca_file, Path(ca_file).stat().st_mtime_ns)
    except (OSError, ssl.SSLError) as error:
        raise SignalError(f"ca_file {ca_file}: {error}") from error


async def fetch(session: aiohttp.ClientSession, url: str, options: FetchOptions) -> bytes:
    """The page's body. Raises SignalError, aiohttp.ClientError, OSError or TimeoutError."""
    headers = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}
    if options.bearer_token_file:
        headers["Authorization"] = f"Bearer {token_of(options.bearer_token_file)}"
    timeout = aiohttp.ClientTimeout(total=options.timeout_s)
    async with session.get(url, headers=headers, timeout=timeout, ssl=trust(options.ca_file)) as response:
        if response.status != 200:
            raise SignalError(f"{url}: HTTP {response.status}")
        page = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            page += chunk
            if len(page) > options.max_bytes:
                raise SignalError(f"{url}: longer than max_bytes = {options.max_bytes}")
        return bytes(page)


def token_of(path: str) -> str:
    """The token a file holds now, so that it can rotate. Raises OSError, or SignalError for what is no token."""
    try:
        return read_token(Path(path))
    except ValueError as error:
        raise SignalError(f"bearer_token_file {error}") from error
