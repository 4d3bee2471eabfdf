"""Tells our own blindness from theirs: many endpoints that fall silent at once did not all break.

An endpoint is silent when its page cannot be had, or its heartbeats stay away, and its port did not refuse. When
at least `freeze_percent` of the endpoints that had been heard (and at least two) fell silent within
`freeze_window` of each other, the pool is frozen: weights stay, and silence convicts nobody. Refused connections
are facts and still count. The pool thaws when fewer than that are silent.
"""

from __future__ import annotations

import math

import numpy as np

from gpuxds.policy.model import HealthSpec
from gpuxds.signals.model import Bools, Floats, Signal, SignalView, Source

LEAST_SILENT = 2


def silent(view: SignalView) -> Bools:
    """Endpoints whose page or heartbeats fail now, that were heard before, and whose port did not refuse."""
    late = view.age_s(Signal.HEARTBEAT) > view.rules[Source.HEARTBEAT].stale_after_s
    failing = np.where(view.beating(), late, view.values[Signal.SCRAPE_FAILURES] >= 1)
    refused = view.values[Signal.PROBE_REFUSALS] >= 1
    return np.asarray(failing & ~refused & np.isfinite(heard_at(view)), dtype=np.bool_)


def heard_at(view: SignalView) -> Floats:
    """Unix seconds at which each endpoint last told its load, or began to be expected to; -inf: never."""
    times: Floats = np.where(view.beating(), view.times[Signal.HEARTBEAT], view.times[Signal.RUNNING])
    return times


def frozen_since(view: SignalView, health: HealthSpec, before: float, now: float) -> float:
    """Since when the pool is frozen (unix seconds); 0 when it is not."""
    heard_times = heard_at(view)
    heard = int(np.isfinite(heard_times).sum())
    needed = max(LEAST_SILENT, math.ceil(heard * health.freeze_percent / 100))
    quiet = silent(view)
    if before:
        return before if int(quiet.sum()) >= needed else 0.0
    return now if most_within(heard_times[quiet], health.freeze_window) >= needed else 0.0


def most_within(times: Floats, window_s: float) -> int:
    """The most moments that lie within one window."""
    ordered = np.sort(times)
    ends = np.searchsorted(ordered, ordered + window_s, side="right")
    return int((ends - np.arange(len(ordered))).max()) if len(ordered) else 0
