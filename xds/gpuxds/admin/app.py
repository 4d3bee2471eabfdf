"""The admin HTTP server: health, metrics, explanations, and drains.

Errors are problem+json (RFC 9457) with a sentence that helps. The server listens on loopback unless told
otherwise; keys from a file guard everything but health, metrics and the description.
"""

from __future__ import annotations

import json
import zlib
from http import HTTPStatus
from pathlib import Path

import structlog
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
from gpuxds.redact import redacted

log = structlog.get_logger("gpuxds")

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
    return web.Response(status=status, text=redacted(json.dumps(body)), content_type="application/problem+json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as problem+json: those raised on purpose, what aiohttp refuses, and defects of ours."""
    path = without_secret(request)
    try:
        return await handler(request)
    except GpuxdsError as error:
        status = STATUS.get(type(error), 500)
        return problem(status, type(error).__name__, str(error), path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        return problem(422, "InvalidBody", f"{where}: {first['msg'].removeprefix('Value error, ')}", path)
    except web.HTTPException as error:
        answer = problem(error.status, error.reason, words(error), path)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except (web.RequestPayloadError, zlib.error, UnicodeDecodeError) as error:
        text = f"the body cannot be read: {error}; send it plain, with its true content-encoding and as UTF-8"
        return problem(400, "UnreadableBody", text, path)
    except ConnectionResetError:
        raise
    except Exception:
        log.exception("defect", where="api", path=path)
        return problem(500, "Defect", "a defect of gpuxds; the log says more, please report it", path)


def words(error: web.HTTPException) -> str:
    """What helps whoever asked the wrong thing."""
    match error:
        case web.HTTPNotFound():
            return "there is no such path; /api/openapi.json describes those there are"
        case web.HTTPMethodNotAllowed():
            return f"this path takes {', '.join(sorted(error.allowed_methods))}, not {error.method}"
        case _:
            return error.text or error.reason


def without_secret(request: web.Request) -> str:
    """The path that was asked, without the id of a reservation."""
    key = request.match_info.get("reservation")
    return request.path.replace(key, "…") if key else request.path


def guard(keys: Keys) -> Middleware:
    """Asks for a key whose role the operation needs."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        needed = ROLES.get(request.match_info.handler, Role.NONE)
        if needed is Role.NONE:
            return await handler(request)
        if not keys.asked and needed is Role.OPERATE and "Origin" in request.headers:
            status = HTTPStatus.FORBIDDEN
            text = "web pages may change nothing while no keys are asked for; start with --api-key-file"
            return problem(status, status.phrase, text, request.path)
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        key = request.headers.get("X-API-Key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        role = keys.role_of(key)
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
