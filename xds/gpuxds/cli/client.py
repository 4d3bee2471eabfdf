"""How commands talk to a running server: its admin API, found through --admin or `$GPUXDS_ADMIN`.

Errors come back as problem+json and end the command with their sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import aiohttp
import typer

from gpuxds.errors import EnvironmentProblem

TIMEOUT_S = 10.0
DEFAULT = "http://127.0.0.1:18001"

Admin = Annotated[
    str, typer.Option("--admin", envvar="GPUXDS_ADMIN", help="Admin address of the server, host:port or URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answered.")]


def call(admin: str, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
    """GET, or POST with a body. Raises EnvironmentProblem with the server's own sentence."""
    return asyncio.run(fetch(admin, path, body, method))


async def fetch(
    admin: str, path: str, body: dict[str, Any] | None = None, method: str | None = None
) -> dict[str, Any]:
    """One call of the admin API."""
    with reached(admin):
        async with (
            session(aiohttp.ClientTimeout(total=TIMEOUT_S)) as client,
            client.request(method or ("GET" if body is None else "POST"), url(admin, path), json=body) as response,
        ):
            return await checked(response, path)


async def stream(admin: str, path: str) -> AsyncIterator[str]:
    """Lines of an answer that does not end by itself."""
    with reached(admin):
        async with session(aiohttp.ClientTimeout(total=None)) as client, client.get(url(admin, path)) as response:
            if response.status >= 400:
                await checked(response, path)
            async for line in response.content:
                yield line.decode().rstrip("\n")


def session(timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session that shows the key in `$GPUXDS_API_KEY`."""
    key = os.environ.get("GPUXDS_API_KEY")
    return aiohttp.ClientSession(timeout=timeout, headers={"X-API-Key": key} if key else {})


def url(admin: str, path: str) -> str:
    """The address of a path."""
    return (admin if "://" in admin else f"http://{admin}").rstrip("/") + path


async def checked(response: aiohttp.ClientResponse, path: str) -> dict[str, Any]:
    """The answer. Raises EnvironmentProblem with the server's own sentence."""
    answer: dict[str, Any] = json.loads(await response.text() or "{}")
    if response.status >= 400:
        detail = str(answer.get("detail") or f"{path}: HTTP {response.status}")
        hint = "; gpuxds commands send the one in $GPUXDS_API_KEY" if response.status == 401 else ""
        raise EnvironmentProblem(detail + hint)
    return answer


@contextmanager
def reached(admin: str) -> Iterator[None]:
    """Turns what can go wrong on the way into a sentence."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise EnvironmentProblem(
            f"no gpuxds server answers at {url(admin, '')} ({error or type(error).__name__}). "
            "Start one with: gpuxds serve POLICY, or name its admin address with --admin or $GPUXDS_ADMIN"
        ) from error
