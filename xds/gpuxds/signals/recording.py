"""A view of signals as a JSON document: to explain a decision elsewhere, or one that somebody made up.

    {"now": 1700000000, "endpoints": {"h100": {"running": 12, "kv_usage": {"value": 0.4, "age_s": 2.5}}}}

A bare number is of age 0. A signal that is not there is absent, which is not 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuxds.errors import SignalError
from gpuxds.policy.model import SignalsSpec
from gpuxds.signals.model import Signal, SignalView
from gpuxds.signals.store import rules_of

BY_NAME = {signal.name.lower(): signal for signal in Signal}


def dump(view: SignalView) -> dict[str, Any]:
    """The document of a view; ages are kept, absent signals left out."""
    endpoints: dict[str, Any] = {}
    for column, endpoint_id in enumerate(view.ids):
        endpoints[endpoint_id] = {
            name: {
                "value": float(view.values[signal, column]),
                "age_s": float(view.now - view.times[signal, column]),
            }
            for name, signal in BY_NAME.items()
            if not np.isnan(view.values[signal, column])
        }
    return {"now": view.now, "endpoints": endpoints}


def load(document: Any, spec: SignalsSpec | None = None) -> SignalView:
    """The view of a document; freshness as `spec` says. Raises SignalError naming endpoint and signal."""
    if not isinstance(document, Mapping) or not isinstance(document.get("endpoints"), Mapping):
        raise SignalError('a recorded signals file is {"now": seconds, "endpoints": {id: {signal: value}}}')
    now, _ = number_and_age(document.get("now", 0.0), "now")
    ids = tuple(str(endpoint_id) for endpoint_id in document["endpoints"])
    values = np.full((len(Signal), len(ids)), np.nan)
    times = np.full((len(Signal), len(ids)), -np.inf)
    for column, (endpoint_id, signals) in enumerate(document["endpoints"].items()):
        if not isinstance(signals, Mapping):
            raise SignalError(f"endpoints.{endpoint_id}: expected a mapping of signals to values")
        for name, entry in signals.items():
            signal = BY_NAME.get(name)
            if signal is None:
                raise SignalError(f"endpoints.{endpoint_id}.{name}: no such signal; known: {', '.join(BY_NAME)}")
            value, age_s = number_and_age(entry, f"endpoints.{endpoint_id}.{name}")
            values[signal, column], times[signal, column] = value, now - age_s
    return SignalView(ids, now, values, times, rules_of(spec or SignalsSpec()))


def number_and_age(entry: Any, path: str) -> tuple[float, float]:
    """A signal's value and age. Raises SignalError."""
    value, age_s = (entry.get("value"), entry.get("age_s", 0.0)) if isinstance(entry, Mapping) else (entry, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(age_s, int | float):
        raise SignalError(f"{path}: {entry!r} is not a number, nor a mapping with value and age_s")
    return float(value), float(age_s)
