"""How commands talk to a running server: its admin API, found through --admin or `$GPUXDS_ADMIN`.

Refusals come back as problem+json and end the command with their sentence. An answer that no gpuxds server gives
(another program listens there, or a proxy stands between) is as good as none, and is named for what it is.
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

from gpuxds.errors import Misuse, Refused, ServerAway

TIMEOUT_S = 10.0
DEFAULT = "http://127.0.0.1:18001"
JSON, PROBLEM = "application/json", "application/problem+json"
REMEDY = "Start one with: gpuxds serve POLICY, or name its admin address with --admin or $GPUXDS_ADMIN"

Admin = Annotated[
    str, typer.Option("--admin", envvar="GPUXDS_ADMIN", help="Admin address of the server, host:port or URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answered.")]


def call(admin: str, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
    """GET, or POST with a body. Raises ServerAway, or Refused with the server's own sentence."""
    return asyncio.run(fetch(admin, path, body, method))


async def fetch(
    admin: str, path: str, body: dict[str, Any] | None = None, method: str | None = None
) -> dict[str, Any]:
    """One call of the admin API. Raises ServerAway or Refused."""
    async with session(TIMEOUT_S) as client:
        return await ask(client, admin, path, body, method)


async def ask(
    client: aiohttp.ClientSession,
    admin: str,
    path: str,
    body: dict[str, Any] | None = None,
    method: str | None = None,
) -> dict[str, Any]:
    """One of many calls over a session. Raises ServerAway or Refused."""
    with reached(admin):
        async with client.request(
            method or ("GET" if body is None else "POST"), url(admin, path), json=body
        ) as response:
            return await checked(response, admin)


async def stream(admin: str, path: str) -> AsyncIterator[str]:
    """Lines of an answer that does not end by itself. Raises ServerAway or Refused."""
    with reached(admin):
        async with session(None) as client, client.get(url(admin, path)) as response:
            if response.content_type != "text/event-stream":
                await checked(response, admin)
            async for line in response.content:
                yield line.decode().rstrip("\n")


def session(timeout_s: float | None, key: str | None = None) -> aiohttp.ClientSession:
    """A session that shows a key, by default the one in `$GPUXDS_API_KEY`."""
    key = key or os.environ.get("GPUXDS_API_KEY")
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    return aiohttp.ClientSession(timeout=timeout, headers={"X-API-Key": key} if key else {})


def url(admin: str, path: str) -> str:
    """The address of a path."""
    return (admin if "://" in admin else f"http://{admin}").rstrip("/") + path


async def checked(response: aiohttp.ClientResponse, admin: str) -> dict[str, Any]:
    """The answer. Raises Refused with the server's own sentence, or ServerAway when it is no gpuxds server's."""
    kind = response.content_type
    answer = json.loads(await response.text()) if kind in (JSON, PROBLEM) else None
    if not isinstance(answer, dict) or (response.status >= 400 and kind != PROBLEM):
        raise ServerAway(
            f"{url(admin, '')} answers, but not as gpuxds does (HTTP {response.status}, {kind}); is it another "
            f"program's port? {REMEDY}"
        )
    if response.status >= 400:
        hint = "; gpuxds commands send the one in $GPUXDS_API_KEY" if response.status == 401 else ""
        raise Refused(f"{answer['detail']}{hint}", answer)
    return answer


@contextmanager
def reached(admin: str) -> Iterator[None]:
    """Turns what can go wrong on the way into a sentence."""
    try:
        yield
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise Misuse(
            f"--admin {admin!r} is not an address; write host:port or a URL, for example {DEFAULT}"
        ) from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ServerAway(f"no gpuxds server answers at {url(admin, '')} ({why(error)}). {REMEDY}") from error


def why(error: Exception) -> str:
    """What went wrong, in few words."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorError():
            code = error.os_error.errno
            return os.strerror(code) if code and code > 0 else str(error.os_error.strerror or error)
        case aiohttp.ClientPayloadError():
            return "it ended in the middle of its answer"
        case aiohttp.ClientResponseError():
            return "what listens there does not speak HTTP; is it the port for proxies?"
        case _:
            return str(error) or type(error).__name__
