"""The admin HTTP server: health, metrics, explanations, and drains.

Errors are problem+json (RFC 9457) with a sentence that helps. The server listens on loopback unless told
otherwise; a bearer token from a file guards everything but health and metrics when one is given.
"""

from __future__ import annotations

import hmac
import json
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ConfigDict, ValidationError

from gpuxds.admin import views
from gpuxds.admin.exposition import DecisionCollector
from gpuxds.engine.loop import Engine
from gpuxds.errors import DrainRefused, GpuxdsError, UnknownEndpoint
from gpuxds.policy.units import Duration

OPEN = {"/healthz", "/readyz", "/metrics"}
SETTLE_S = 1.0
MAX_BODY_BYTES = 65_536
ENGINE = web.AppKey("engine", Engine)
STATUS: dict[type[GpuxdsError], int] = {UnknownEndpoint: 404, DrainRefused: 409}


class DrainRequest(BaseModel):
    """Body of a drain."""

    model_config = ConfigDict(extra="forbid")

    deadline: Duration | None = None
    """Time after which the endpoint leaves even when busy; the pool's `drain.deadline` when absent."""
    reason: str = ""
    force: bool = False
    """Drain even when nobody is left to serve the pool."""


def build(engine: Engine, token_file: Path | None = None) -> web.Application:
    """The application; `token_file` is read anew for each request, so that a token can rotate."""
    app = web.Application(middlewares=[problems, guard(token_file)], client_max_size=MAX_BODY_BYTES)
    app[ENGINE] = engine
    engine.metrics.registry.register(DecisionCollector(engine))
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/api/v1/endpoints", list_endpoints),
            web.get("/api/v1/endpoints/{id}", get_endpoint),
            web.post("/api/v1/endpoints/{id}/drain", drain),
            web.post("/api/v1/endpoints/{id}/undrain", undrain),
            web.get("/api/v1/explain", explain),
            web.get("/api/v1/signals", get_signals),
            web.get("/api/v1/proxies", list_proxies),
            web.get("/api/v1/policy", get_policy),
        ]
    )
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
        return problem(error.status, error.reason, error.text or error.reason, request.path)


def guard(token_file: Path | None) -> Middleware:
    """Asks for the bearer token when there is one."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token_file is not None and request.path not in OPEN:
            wanted = f"Bearer {read(token_file)}"
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return problem(401, "Unauthorized", "send Authorization: Bearer <token>", request.path)
        return await handler(request)

    return check


def read(path: Path) -> str:
    """A token; so short a file that reading it does not hold anybody up."""
    return path.read_text(encoding="utf-8").strip()


def answer(value: object) -> web.Response:
    """A JSON body."""
    return web.json_response(views.plain(value))


async def healthz(_: web.Request) -> web.Response:
    """The process runs."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """A first decision is published."""
    if request.app[ENGINE].decisions:
        return web.Response(text="ready\n")
    return web.Response(status=503, text="waiting for the first signals\n")


async def metrics(request: web.Request) -> web.Response:
    """Prometheus exposition."""
    body = request.app[ENGINE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def list_endpoints(request: web.Request) -> web.Response:
    """Every endpoint with its health, weight and load."""
    return answer(views.endpoints(request.app[ENGINE]))


async def get_endpoint(request: web.Request) -> web.Response:
    """One endpoint; how far its drain is."""
    engine = request.app[ENGINE]
    decision = engine.decision_of(request.match_info["id"])
    return answer(views.endpoint_row(engine, decision, decision.ids.index(request.match_info["id"])))


async def drain(request: web.Request) -> web.Response:
    """Take an endpoint out of service; answers once connected proxies have acknowledged it."""
    body = DrainRequest.model_validate_json(await request.read() or b"{}")
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    engine.drain(endpoint_id, deadline_s=body.deadline, reason=body.reason, owner="operator", force=body.force)
    acknowledged = await engine.server.settled(SETTLE_S)
    decision = engine.decision_of(endpoint_id)
    row = views.endpoint_row(engine, decision, decision.ids.index(endpoint_id))
    return answer({**row, "acknowledged": acknowledged})


async def undrain(request: web.Request) -> web.Response:
    """Put an endpoint back to work."""
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    undone = engine.undrain(endpoint_id)
    await engine.server.settled(SETTLE_S)
    return answer({"id": endpoint_id, "was_draining": undone})


async def explain(request: web.Request) -> web.Response:
    """Why each weight is what it is; `?endpoint=` for one."""
    engine, endpoint_id = request.app[ENGINE], request.query.get("endpoint")
    decisions = list(engine.decisions.values()) if endpoint_id is None else [engine.decision_of(endpoint_id)]
    return answer(views.explained(decisions, endpoint_id, engine.drains.by_id))


async def get_signals(request: web.Request) -> web.Response:
    """What the last decisions stood on, to be explained elsewhere."""
    return answer(views.signals(request.app[ENGINE]))


async def list_proxies(request: web.Request) -> web.Response:
    """What every proxy was sent, accepted and rejected."""
    return answer(views.proxies(request.app[ENGINE]))


async def get_policy(request: web.Request) -> web.Response:
    """The policy in force and the last attempt to change it."""
    return answer(views.policy(request.app[ENGINE]))
