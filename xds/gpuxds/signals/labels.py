"""What an engine's page says in labels: its model, its adapters, and how its requests ended.

`PageReader` gives numbers for decisions; these are words and totals for people and for the agent's heartbeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuxds.signals.parser import Sample, scan
from gpuxds.signals.presets import Labels


@dataclass(frozen=True, slots=True)
class Said:
    """None wherever the page does not say."""

    model: str | None = None
    succeeded: int | None = None
    """Requests since the engine started."""
    failed: int | None = None
    adapters: tuple[str, ...] | None = None
    """Adapters with running requests; empty when there are none."""


def said(page: bytes, labels: Labels) -> Said:
    """What one page says. Raises SignalError when it is no metric page."""
    names = {labels.model[0], labels.finished[0], labels.adapters[0]}
    found = {name.decode(): samples for name, samples in scan(page, {name.encode() for name in names}).items()}
    models = [model for s in found.get(labels.model[0], []) if (model := s.labels.get(labels.model[1]))]
    finished = found.get(labels.finished[0], [])
    return Said(
        model=models[0] if models else None,
        succeeded=total(finished, labels.finished[1], labels.succeeded),
        failed=total(finished, labels.finished[1], labels.failed),
        adapters=adapters(found.get(labels.adapters[0], []), labels.adapters[1]),
    )


def total(samples: list[Sample], label: str, values: frozenset[str]) -> int | None:
    """The sum of the series with one of these values; None when there are none."""
    known = [s.value for s in samples if s.labels.get(label) in values and math.isfinite(s.value)]
    return int(sum(known)) if known else None


def adapters(samples: list[Sample], label: str) -> tuple[str, ...] | None:
    """Names in the newest series of each engine of the page; series of earlier sets of adapters linger there."""
    newest: dict[str, Sample] = {}
    for sample in samples:
        engine = sample.labels.get("engine", "")
        if engine not in newest or sample.value >= newest[engine].value:
            newest[engine] = sample
    if not newest:
        return None
    names = {name.strip() for sample in newest.values() for name in sample.labels.get(label, "").split(",")}
    return tuple(sorted(names - {""}))
