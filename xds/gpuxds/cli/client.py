"""How commands talk to a running server: its admin API, found through --admin or `$GPUXDS_ADMIN`.

Errors come back as problem+json and end the command with their sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
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


def call(admin: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST with a body. Raises EnvironmentProblem with the server's own sentence."""
    return asyncio.run(fetch(admin, path, body))


async def fetch(admin: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the admin API."""
    base = admin if "://" in admin else f"http://{admin}"
    key = os.environ.get("GPUXDS_API_KEY")
    headers = {"X-API-Key": key} if key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=headers) as session,
            session.request("GET" if body is None else "POST", base.rstrip("/") + path, json=body) as response,
        ):
            answer: dict[str, Any] = json.loads(await response.text() or "{}")
            if response.status >= 400:
                raise EnvironmentProblem(str(answer.get("detail") or f"{path}: HTTP {response.status}"))
            return answer
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise EnvironmentProblem(
            f"no gpuxds server answers at {base} ({error or type(error).__name__}). "
            "Start one with: gpuxds serve POLICY, or name its admin address with --admin or $GPUXDS_ADMIN"
        ) from error
