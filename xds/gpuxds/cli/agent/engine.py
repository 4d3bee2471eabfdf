"""Reads the engine's metric page with the same reader and presets as the control plane's own scraper.

The mean of a heartbeat is that of the requests that ended since the last one (no memory beyond a page: time
constant 0); while none ends, the last mean stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import aiohttp

from gpuxds.cli.agent.heartbeat import EngineReading
from gpuxds.signals.collect.fetch import FetchOptions, fetch
from gpuxds.signals.labels import Said, said
from gpuxds.signals.model import Signal
from gpuxds.signals.presets import Preset
from gpuxds.signals.reader import PageReader

OPTIONS = FetchOptions(timeout_s=2.0, max_bytes=4_194_304)
"""The page is on this host: it answers at once, or not."""


class Engine(Protocol):
    """An engine that can be asked how it is."""

    async def read(self, client: aiohttp.ClientSession, at: float) -> EngineReading:
        """How it is at `at`, in seconds of a clock that never jumps. Raises SignalError, aiohttp.ClientError,
        OSError or TimeoutError."""


class EnginePage:
    """The pages of one engine, one after the other."""

    def __init__(self, url: str, preset: Preset) -> None:
        self.url = url
        self.reader = PageReader(preset, ewma_s=0.0)

    async def read(self, client: aiohttp.ClientSession, at: float) -> EngineReading:
        """The page, now."""
        page = await fetch(client, self.url, OPTIONS)
        labels = self.reader.preset.labels
        return reading(self.reader.read(page, at), Said() if labels is None else said(page, labels))


def reading(signals: Mapping[Signal, float], words: Said) -> EngineReading:
    """The part of a page that a heartbeat carries; JSON has no NaN, so that is not known either."""
    signals = {signal: value for signal, value in signals.items() if math.isfinite(value)}
    return EngineReading(
        running=whole(signals.get(Signal.RUNNING)),
        waiting=whole(signals.get(Signal.WAITING)),
        kv_usage=signals.get(Signal.KV_USAGE),
        succeeded=words.succeeded,
        failed=words.failed,
        mean_s=signals.get(Signal.LATENCY_S),
        model=words.model,
        adapters=words.adapters,
    )


def whole(value: float | None) -> int | None:
    """Requests are whole."""
    return None if value is None else round(value)
