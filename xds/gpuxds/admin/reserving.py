"""Reservations over HTTP: made, listed, extended, released.

The id is in the answer to whoever reserves, once; from then on a reservation goes by its name, which anyone may
see.
"""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from gpuxds.admin.answers import strict
from gpuxds.admin.serving import ENGINE, SETTLE_S, Response, answer
from gpuxds.engine import reservations
from gpuxds.engine.loop import Engine
from gpuxds.fleet.reservation import HEADER
from gpuxds.fleet.reservation import Reservation as Held
from gpuxds.policy.units import Duration
from gpuxds.scoring.reserve import Filters

HOUR_S = 3600.0
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=256)]


class FilterRequest(BaseModel):
    """What a reserved endpoint must be."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    min_vram: Positive | None = None
    """Least GPU memory in GB, all GPUs of the endpoint together."""
    max_price: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    """Highest price per hour, in the currency of the policy."""
    provider: Text | None = None
    """The endpoint's label `provider`."""
    region: Text | None = None
    """The endpoint's label `region`."""
    model: Text | None = None
    """GPU model, with or without its memory (H100, H100-80), or the model the endpoint says it serves."""

    def filters(self) -> Filters:
        """For scoring."""
        return Filters(self.min_vram, self.max_price, self.provider, self.region, self.model)


class ReserveRequest(BaseModel):
    """Body of a reservation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    count: int = Field(1, ge=1, le=16)
    """Endpoints wanted; fewer may be had."""
    pool: str | None = None
    """Whose; may be left out when there is only one."""
    filters: FilterRequest = Field(default_factory=FilterRequest)
    """What they must be."""
    ttl: Duration = HOUR_S
    """For how long, for example `30m`; at most the pool's `reservations.max_ttl`."""
    note: str = Field("", max_length=256)
    """What it is for; shown wherever the reservation is."""


class ExtendRequest(BaseModel):
    """Body of an extension."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ttl: Duration = HOUR_S
    """For how long from now."""


@dataclass(config=strict)
class Reservation:
    """Endpoints that serve one holder only."""

    name: str
    pool: str
    endpoints: list[str]
    missing: list[str]
    """Of those, the ones that have left the fleet."""
    created_at: float
    expires_at: float
    expires_in_s: float
    note: str


@dataclass(config=strict)
class Reserved(Reservation):
    """Answer to a reservation."""

    reservation_id: str
    """The secret that requests carry; told here and never again."""
    header: str
    """The request header they carry it in."""
    requested: int
    reserved: int
    reasons: list[str]
    """Why fewer than requested could be had."""
    acknowledged: bool
    """Every connected proxy has accepted it."""


@dataclass(config=strict)
class Reservations:
    """Reservations in force."""

    reservations: list[Reservation]


def row(engine: Engine, found: Held) -> dict[str, Any]:
    """A reservation without its id."""
    return {
        "name": found.name,
        "pool": found.pool,
        "endpoints": list(found.endpoints),
        "missing": [endpoint for endpoint in found.endpoints if endpoint not in engine.fleet.by_id],
        "created_at": found.created_at,
        "expires_at": found.expires_at,
        "expires_in_s": max(0.0, found.expires_at - engine.now()),
        "note": found.note,
    }


async def reserve(request: web.Request) -> Response:
    """Set endpoints aside for requests that carry the id in the answer."""
    body = ReserveRequest.model_validate_json(await request.read() or b"{}")
    engine = request.app[ENGINE]
    made, reasons = reservations.reserve(
        engine, pool=body.pool, count=body.count, filters=body.filters.filters(), ttl_s=body.ttl, note=body.note
    )
    acknowledged = await engine.server.settled(SETTLE_S)
    return answer(
        {
            **row(engine, made),
            "reservation_id": made.id,
            "header": HEADER,
            "requested": body.count,
            "reserved": len(made.endpoints),
            "reasons": list(reasons),
            "acknowledged": acknowledged,
        },
        status=201,
    )


async def list_reservations(request: web.Request) -> Response:
    """Reservations in force, by name; their ids are told to nobody again."""
    engine = request.app[ENGINE]
    found = sorted(engine.reservations.by_id.values(), key=lambda one: one.created_at)
    return answer({"reservations": [row(engine, one) for one in found]})


async def extend_reservation(request: web.Request) -> Response:
    """Let a reservation end `ttl` from now."""
    body = ExtendRequest.model_validate_json(await request.read() or b"{}")
    engine = request.app[ENGINE]
    return answer(row(engine, reservations.extend(engine, request.match_info["reservation"], body.ttl)))


async def release_reservation(request: web.Request) -> Response:
    """End a reservation; its endpoints serve everybody again."""
    engine = request.app[ENGINE]
    released = reservations.release(engine, request.match_info["reservation"])
    await engine.server.settled(SETTLE_S)
    return answer(row(engine, released))
