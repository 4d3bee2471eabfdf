"""The admin HTTP server: health, metrics, explanations, and drains.

Errors are problem+json (RFC 9457) with a sentence that helps. The server listens on loopback unless told
otherwise; keys from a file guard everything but health, metrics and the description.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from gpuxds.admin.exposition import DecisionCollector
from gpuxds.admin.keys import Keys, Role
from gpuxds.admin.routes import OPERATIONS, healthz, metrics, openapi, readyz
from gpuxds.admin.serving import ENGINE
from gpuxds.engine.loop import Engine
from gpuxds.errors import (
    Conflict,
    DrainRefused,
    GpuxdsError,
    NoCapacity,
    NotReady,
    UnknownEndpoint,
    UnknownPool,
    UnknownReservation,
    Unusable,
)

MAX_BODY_BYTES = 262_144
STATUS: dict[type[GpuxdsError], int] = {
    UnknownEndpoint: 404,
    UnknownPool: 404,
    UnknownReservation: 404,
    DrainRefused: 409,
    Conflict: 409,
    Unusable: 422,
    NotReady: 503,
    NoCapacity: 503,
}
ROLES = {operation.handler: operation.role for operation in OPERATIONS}


def build(engine: Engine, key_file: Path | None = None) -> web.Application:
    """The application. Raises EnvironmentProblem when the key file cannot be used."""
    keys = Keys(key_file)
    keys.refresh()
    app = web.Application(middlewares=[problems, guard(keys)], client_max_size=MAX_BODY_BYTES)
    app[ENGINE] = engine
    engine.metrics.registry.register(DecisionCollector(engine))
    open_to_all = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/api/openapi.json": openapi}
    app.add_routes([web.get(path, handler) for path, handler in open_to_all.items()])
    app.add_routes([web.route(o.method, o.path, o.handler) for o in OPERATIONS])
    return app


def problem(status: int, title: str, detail: str, instance: str) -> web.Response:
    """An error as RFC 9457 wants it."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance}
    return web.Response(status=status, text=json.dumps(body), content_type="application/problem+json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors raised on purpose, as problem+json."""
    try:
        return await handler(request)
    except GpuxdsError as error:
        status = STATUS.get(type(error), 500)
        return problem(status, type(error).__name__, str(error), request.path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        return problem(422, "InvalidBody", f"{where}: {first['msg'].removeprefix('Value error, ')}", request.path)
    except web.HTTPException as error:
        answer = problem(error.status, error.reason, error.text or error.reason, request.path)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


def guard(keys: Keys) -> Middleware:
    """Asks for a key whose role the operation needs."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        needed = ROLES.get(request.match_info.handler, Role.NONE)
        if needed is Role.NONE:
            return await handler(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        role = keys.role_of(request.headers.get("X-API-Key") or bearer)
        if role >= needed:
            return await handler(request)
        status = HTTPStatus.UNAUTHORIZED if role is Role.NONE else HTTPStatus.FORBIDDEN
        detail = (
            "send a key as X-API-Key or Authorization: Bearer"
            if role is Role.NONE
            else f"this key may {role.name.lower()}; this needs one that may {needed.name.lower()}"
        )
        return problem(status, status.phrase, detail, request.path)

    return check
