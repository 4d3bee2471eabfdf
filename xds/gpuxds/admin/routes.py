"""What the API can be asked, and how it answers: a table of operations, each with its handler.

Handlers are thin: they ask the engine, and views make the answer. The same table is served and described.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import cache
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from gpuxds.admin import answers, views, work
from gpuxds.admin.keys import Role
from gpuxds.admin.openapi import Operation, document
from gpuxds.admin.reserving import (
    ExtendRequest,
    Reservation,
    Reservations,
    Reserved,
    ReserveRequest,
    extend_reservation,
    list_reservations,
    release_reservation,
    reserve,
)
from gpuxds.admin.serving import ENGINE, SETTLE_S, Response, answer
from gpuxds.engine import actions, heartbeats
from gpuxds.engine.events import Happening
from gpuxds.engine.guards import described
from gpuxds.policy.model import EndpointSpec
from gpuxds.policy.override import parse
from gpuxds.policy.units import Duration
from gpuxds.redact import redacted
from gpuxds.signals.heartbeat import Heartbeat

KEEPALIVE_S = 15.0


class DrainRequest(BaseModel):
    """Body of a drain."""

    model_config = ConfigDict(extra="forbid")

    deadline: Duration | None = None
    """Time after which the endpoint leaves even when busy; the pool's `drain.deadline` when absent."""
    reason: str = ""
    force: bool = False
    """Drain even when nobody is left to serve the pool."""


class StrategyRequest(BaseModel):
    """Body of a change of strategy."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | dict[str, Any] | None
    """A name, or a mapping with `name` and parameters; null clears the override."""
    pool: str | None = None
    """One pool; all when absent."""


class Registration(EndpointSpec):
    """Body of a registration: what a policy says of an endpoint, and its pool."""

    pool: str

    def spec(self) -> EndpointSpec:
        """The part that a policy would have."""
        return EndpointSpec.model_validate(self.model_dump(exclude={"pool"}))


async def healthz(_: web.Request) -> Response:
    """The process runs."""
    return Response(text="ok\n")


async def readyz(request: web.Request) -> Response:
    """A first decision is published."""
    if request.app[ENGINE].decisions:
        return Response(text="ready\n")
    return Response(status=503, text="waiting for the first signals\n")


async def metrics(request: web.Request) -> Response:
    """Prometheus exposition."""
    body = request.app[ENGINE].metrics.render()
    return Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def list_endpoints(request: web.Request) -> Response:
    """Every endpoint with its health, weight and load."""
    engine = request.app[ENGINE]
    engine.require_ready()
    return answer(views.endpoints(engine))


async def get_endpoint(request: web.Request) -> Response:
    """One endpoint; how far its drain is."""
    engine = request.app[ENGINE]
    return answer(views.one(engine, request.match_info["id"]))


async def register_endpoint(request: web.Request) -> Response:
    """Register an endpoint; it is kept over restarts, and its weight is ramped up once it answers."""
    body = Registration.model_validate_json(await request.read())
    engine = request.app[ENGINE]
    actions.register(engine, body.pool, body.spec())
    return answer(views.one(engine, body.id), status=201)


async def change_endpoint(request: web.Request) -> Response:
    """Describe a registered endpoint anew."""
    body = Registration.model_validate_json(await request.read())
    engine = request.app[ENGINE]
    actions.change(engine, request.match_info["id"], body.pool, body.spec())
    return answer(views.one(engine, body.id))


async def remove_endpoint(request: web.Request) -> Response:
    """Drain a registered endpoint and forget it then; `?force=true` forgets it at once."""
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    actions.remove(engine, endpoint_id, force=flag(request, "force"))
    return answer({"id": endpoint_id, "gone": endpoint_id not in engine.fleet.by_id})


async def drain(request: web.Request) -> Response:
    """Take an endpoint out of service; answers once connected proxies have acknowledged it."""
    body = DrainRequest.model_validate_json(await request.read() or b"{}")
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    actions.drain(
        engine, endpoint_id, deadline_s=body.deadline, reason=body.reason, owner="operator", force=body.force
    )
    acknowledged = await engine.server.settled(SETTLE_S)
    return answer({**views.one(engine, endpoint_id), "acknowledged": acknowledged})


async def undrain(request: web.Request) -> Response:
    """Put an endpoint back to work."""
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    undone = actions.undrain(engine, endpoint_id)
    await engine.server.settled(SETTLE_S)
    return answer({"id": endpoint_id, "was_draining": undone})


async def heartbeat(request: web.Request) -> Response:
    """Take in what a GPU host says of itself."""
    said = Heartbeat.model_validate_json(await request.read() or b"{}")
    engine, endpoint_id = request.app[ENGINE], request.match_info["id"]
    heartbeats.beat(engine, endpoint_id, said)
    return answer(views.pulse(engine, endpoint_id))


async def explain(request: web.Request) -> Response:
    """Why each weight is what it is."""
    engine, endpoint_id = request.app[ENGINE], request.query.get("endpoint")
    engine.require_ready()
    if endpoint_id is not None:
        engine.decision_of(endpoint_id)
    return answer(
        views.explained(
            engine.policy,
            engine.clusters(),
            endpoint_id,
            engine.drains.by_id,
            engine.overrides,
            engine.reservations.holders(engine.fleet),
            described(engine),
        )
    )


async def get_strategy(request: web.Request) -> Response:
    """How every pool's load is spread, and whether the policy or an override says so."""
    return answer(views.strategies(request.app[ENGINE]))


async def put_strategy(request: web.Request) -> Response:
    """Override the strategy of one pool or of all, or clear the override; it survives restarts."""
    body = StrategyRequest.model_validate_json(await request.read() or b"{}")
    strategy = None if body.strategy is None else parse(body.strategy)
    engine = request.app[ENGINE]
    actions.set_strategy(engine, [] if body.pool is None else [body.pool], strategy)
    await engine.server.settled(SETTLE_S)
    return answer(views.strategies(engine))


async def list_loads(request: web.Request) -> Response:
    """Every endpoint's load as proxies and its engine count it."""
    engine, only = request.app[ENGINE], request.query.get("instance_id")
    engine.require_ready()
    if only is not None:
        engine.decision_of(only)
    return answer({"instances": work.instances(engine, only)})


async def get_load(request: web.Request) -> Response:
    """One endpoint's load."""
    engine, wanted = request.app[ENGINE], request.query.get("instance_id")
    if not wanted:
        raise web.HTTPBadRequest(text="say which endpoint: ?instance_id=ID; /api/v1/loadbalancer/loads has all")
    engine.decision_of(wanted)
    return answer(work.instances(engine, wanted)[0])


async def get_load_balancer(request: web.Request) -> Response:
    """The fleet in a few numbers, and every endpoint's load."""
    engine = request.app[ENGINE]
    engine.require_ready()
    return answer(work.load_balancer(engine))


async def get_signals(request: web.Request) -> Response:
    """What the last decisions stood on, to be explained elsewhere."""
    return answer(views.signals(request.app[ENGINE]))


async def list_proxies(request: web.Request) -> Response:
    """What every proxy was sent, accepted and rejected."""
    return answer(views.proxies(request.app[ENGINE]))


async def stream_events(request: web.Request) -> web.StreamResponse:
    """What happens, as server-sent events; resumes after `Last-Event-ID` or `?after=`."""
    engine = request.app[ENGINE]
    log, last = engine.events, last_seen(request)
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await stream.prepare(request)
    if log.missed(last):
        await stream.write(sent(Happening(last, engine.now(), "gap", {"why": "older events are not kept"})))
    with contextlib.suppress(ConnectionResetError):  # the follower left
        while True:
            changed = log.changed
            for event in log.after(last):
                last = event.id
                await stream.write(sent(event))
            try:
                await asyncio.wait_for(changed.wait(), KEEPALIVE_S)
            except TimeoutError:
                await stream.write(b": still here\n\n")
    return stream


def sent(event: Happening) -> bytes:
    """One server-sent event."""
    data = json.dumps(views.plain({"id": event.id, "at": event.at, "kind": event.kind, **event.data}))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {redacted(data)}\n\n".encode()


def last_seen(request: web.Request) -> int:
    """The id after which events are wanted; without one, those from now on. Raises HTTPBadRequest."""
    text = request.headers.get("Last-Event-ID") or request.query.get("after")
    if text is None:
        return request.app[ENGINE].events.next_id - 1
    if not text.isdecimal() or len(text) > 18:
        raise web.HTTPBadRequest(
            text=f"{text[:40]!r} is not an event id; send a whole number, 0 for all that are kept"
        )
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A switch in the query. Raises HTTPBadRequest for anything but true and false."""
    said = request.query.get(name, "false")
    if said not in ("true", "false"):
        raise web.HTTPBadRequest(text=f"{name}={said[:40]!r}; write {name}=true, or leave it out")
    return said == "true"


async def get_policy(request: web.Request) -> Response:
    """The policy in force and the last attempt to change it."""
    return answer(views.policy(request.app[ENGINE]))


async def openapi(_: web.Request) -> Response:
    """This API's description."""
    return Response(text=description(), content_type="application/json")


OPERATIONS: tuple[Operation, ...] = (
    Operation("get", "/api/v1/endpoints", list_endpoints, answers.Endpoints),
    Operation(
        "post", "/api/v1/endpoints", register_endpoint, answers.Endpoint, Role.OPERATE, Registration,
        errors=(404, 409), status=201,
    ),
    Operation(
        "put", "/api/v1/endpoints/{id}", change_endpoint, answers.Endpoint, Role.OPERATE, Registration,
        errors=(404, 409),
    ),
    Operation(
        "delete", "/api/v1/endpoints/{id}", remove_endpoint, answers.Removed, Role.OPERATE,
        query={"force": "`true`: without draining it first."}, errors=(400, 404, 409),
    ),
    Operation("get", "/api/v1/endpoints/{id}", get_endpoint, answers.Endpoint, errors=(404,)),
    Operation(
        "post", "/api/v1/endpoints/{id}/drain", drain, answers.Endpoint, Role.OPERATE, DrainRequest,
        errors=(404, 409),
    ),
    Operation(
        "post", "/api/v1/endpoints/{id}/undrain", undrain, answers.Undrained, Role.OPERATE, errors=(404,)
    ),
    Operation(
        "post", "/api/v1/endpoints/{id}/heartbeat", heartbeat, answers.Pulse, Role.OPERATE, Heartbeat,
        errors=(404,),
    ),
    Operation(
        "post", "/api/v1/gpu/instances/reserve", reserve, Reserved, Role.OPERATE, ReserveRequest,
        errors=(404, 409), status=201,
    ),
    Operation("get", "/api/v1/gpu/instances/reservations", list_reservations, Reservations),
    Operation(
        "post", "/api/v1/gpu/instances/reservations/{reservation}/extend", extend_reservation, Reservation,
        Role.OPERATE, ExtendRequest, errors=(404,),
    ),
    Operation(
        "delete", "/api/v1/gpu/instances/reservations/{reservation}", release_reservation, Reservation,
        Role.OPERATE, errors=(404,),
    ),
    Operation(
        "get", "/api/v1/explain", explain, answers.Explained, query={"endpoint": "One endpoint only."},
        errors=(404,),
    ),
    Operation("get", "/api/v1/loadbalancer/strategy", get_strategy, answers.Strategies),
    Operation(
        "put", "/api/v1/loadbalancer/strategy", put_strategy, answers.Strategies, Role.OPERATE, StrategyRequest,
        errors=(404,),
    ),
    Operation(
        "get", "/api/v1/loadbalancer/loads", list_loads, answers.Loads,
        query={"instance_id": "One endpoint only."}, errors=(404,),
    ),
    Operation(
        "get", "/api/v1/loadbalancer/load", get_load, answers.Instance,
        query={"instance_id": "Which endpoint."}, errors=(400, 404),
    ),
    Operation("get", "/api/admin/load-balancer", get_load_balancer, answers.LoadBalancer),
    Operation("get", "/api/v1/signals", get_signals, answers.Recording),
    Operation("get", "/api/v1/proxies", list_proxies, answers.Proxies),
    Operation(
        "get", "/api/v1/events", stream_events, answers.Event, query={"after": "Id of the last event seen."},
        errors=(400,), streams=True,
    ),
    Operation("get", "/api/v1/policy", get_policy, answers.Policy),
)  # fmt: skip


@cache
def description() -> str:
    """OpenAPI 3.1 as text; made when somebody asks, since it takes a moment."""
    return json.dumps(document(OPERATIONS), indent=1)
