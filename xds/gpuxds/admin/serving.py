"""What all handlers need: the engine they ask, and how they answer."""

from __future__ import annotations

import json

from aiohttp import web

from gpuxds.admin import views
from gpuxds.engine.loop import Engine
from gpuxds.redact import redacted

SETTLE_S = 1.0
"""Longest wait for proxies to accept what was asked for."""
ENGINE = web.AppKey("engine", Engine)
Response = web.Response


def answer(value: object, status: int = 200) -> Response:
    """A JSON body."""
    return web.Response(
        text=redacted(json.dumps(views.plain(value))), status=status, content_type="application/json"
    )
