"""Reads the engine's metric page with the same reader and presets as the control plane's own scraper.

The mean of a heartbeat is that of the requests that ended since the last one; when none did, it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import aiohttp
from pydantic import ValidationError

from gpuxds.errors import SignalError
from gpuxds.signals.collect.fetch import FetchOptions, fetch
from gpuxds.signals.heartbeat import Heartbeat
from gpuxds.signals.labels import Said, said
from gpuxds.signals.model import Signal
from gpuxds.signals.presets import Preset
from gpuxds.signals.reader import PageReader

OPTIONS = FetchOptions(timeout_s=2.0, max_bytes=4_194_304)
"""The page is on this host: it answers at once, or not."""


class Engine(Protocol):
    """An engine that can be asked how it is."""

    async def read(self, client: aiohttp.ClientSession, at: float) -> Heartbeat:
        """How it is at `at`, in seconds of a clock that never jumps. Raises SignalError, aiohttp.ClientError,
        OSError or TimeoutError."""


class EnginePage:
    """The pages of one engine, one after the other."""

    def __init__(self, url: str, preset: Preset) -> None:
        self.url = url
        self.reader = PageReader(preset, ewma_s=0.0)

    async def read(self, client: aiohttp.ClientSession, at: float) -> Heartbeat:
        """The page, now."""
        page = await fetch(client, self.url, OPTIONS)
        labels = self.reader.preset.labels
        return beat_of(self.reader.read(page, at), Said() if labels is None else said(page, labels))


def beat_of(signals: Mapping[Signal, float], words: Said) -> Heartbeat:
    """The part of a heartbeat that a page gives. Raises SignalError when the page says what cannot be."""
    try:
        return Heartbeat(
            running=whole(signals.get(Signal.RUNNING)),
            waiting=whole(signals.get(Signal.WAITING)),
            kv_usage=signals.get(Signal.KV_USAGE),
            succeeded=words.succeeded,
            failed=words.failed,
            mean_s=signals.get(Signal.LAST_LATENCY_S),
            model=words.model,
            adapters=None if words.adapters is None else list(words.adapters),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise SignalError(f"the page says what cannot be: {first['loc'][0]} {first['input']}") from error


def whole(value: float | None) -> int | None:
    """Requests are whole; what is no number is not known."""
    return round(value) if value is not None and math.isfinite(value) else None
