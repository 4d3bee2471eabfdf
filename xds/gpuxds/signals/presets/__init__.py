"""Presets: which series of an engine's page mean which signal, as tables.

A row says where a signal is, how to combine its series, and its unit as a factor. Another engine is another
table; no code. The first name that is on the page wins, so old and new names can stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from gpuxds.signals.model import Signal


class How(Enum):
    """How the series of one name become one number."""

    SUM = "sum of gauges"
    MAX = "largest gauge"
    TOTAL = "sum of counters"
    RATE = "sum of counters, per second between pages"
    MEAN = "histogram: mean of what was observed between pages, averaged over time"
    LAST_MEAN = "the same, not averaged over time; nothing when nothing was observed"
    LABEL_PRODUCT = "product of two numeric labels"


GROWING = (How.RATE, How.MEAN, How.LAST_MEAN)
"""What is read from counters, between two pages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One signal of an engine."""

    signal: Signal
    how: How
    names: tuple[str, ...]
    """Metric names, the preferred one first; a histogram's without `_sum` and `_count`."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Labels a series must have."""
    factor: float = 1.0
    offset: float = 0.0
    """Signal = factor x value + offset."""
    labels: tuple[str, str] = ("", "")
    """For LABEL_PRODUCT."""

    def series(self) -> tuple[str, ...]:
        """Names to look for on the page."""
        if self.how in (How.MEAN, How.LAST_MEAN):
            return tuple(f"{name}{suffix}" for name in self.names for suffix in ("_sum", "_count"))
        return self.names


@dataclass(frozen=True, slots=True)
class Labels:
    """What an engine says in labels. Each pair is a metric and the label that is read."""

    model: tuple[str, str]
    finished: tuple[str, str]
    """A counter of finished requests, and the label that says how they ended."""
    succeeded: frozenset[str]
    failed: frozenset[str]
    """How requests end, well and badly."""
    adapters: tuple[str, str]
    """Adapters with requests, separated by commas; the value is a Unix time and the newest series holds."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One engine."""

    name: str
    rows: tuple[Row, ...]
    evidence: tuple[str, ...]
    """At least one of these names must be on the page: a page without engine series is not an idle engine."""
    labels: Labels | None = None
    """None: this engine says nothing in labels that we read."""
    names: tuple[bytes, ...] = field(init=False, repr=False)
    """Everything to look for on the page; one tuple for all readers."""
    growing: frozenset[bytes] = field(init=False, repr=False)
    """Of those, the names that mean something between two pages only."""

    def __post_init__(self) -> None:
        wanted = {name for row in self.rows for name in row.series()} | set(self.evidence)
        growing = {name for row in self.rows if row.how in GROWING for name in row.series()}
        object.__setattr__(self, "names", tuple(sorted(name.encode() for name in wanted)))
        object.__setattr__(self, "growing", frozenset(name.encode() for name in growing))


def presets() -> Mapping[str, Preset]:
    """Every engine preset by name."""
    from gpuxds.signals.presets.vllm import VLLM

    return MappingProxyType({VLLM.name: VLLM})
