"""Turns the pages of one engine, one after the other, into signals.

Gauges are what they say. Counters and histograms only mean something between two pages: deltas per series,
where a counter that fell was restarted and counts from zero. Rates and latencies are then averaged over the
policy's time constant. The reader holds what it needs of the last page and nothing else; it does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuxds.errors import SignalError
from gpuxds.signals.ewma import Ewma, observe
from gpuxds.signals.model import Signal
from gpuxds.signals.parser import BLANK, Sample, scan
from gpuxds.signals.presets import How, Preset, Row

Series = dict[bytes, float]


@dataclass(slots=True)
class PageReader:
    """The memory of one engine page."""

    preset: Preset
    ewma_s: float
    at: float = 0.0
    """Unix seconds of the last page; 0: none yet."""
    counters: dict[bytes, Series] = field(default_factory=dict)
    averages: dict[Signal, Ewma] = field(default_factory=dict)

    def read(self, page: bytes, at: float) -> dict[Signal, float]:
        """Signals of one page, fetched at `at`; absent ones are not in the answer. Raises SignalError."""
        found = scan(page, self.preset.names)
        if not any(name.encode() in found for name in self.preset.evidence):
            raise SignalError(f"no {self.preset.name} series on the page; are the engine's statistics on?")
        signals: dict[Signal, float] = {}
        for row in self.preset.rows:
            value = self.value_of(row, found, at)
            if value is not None:
                signals[row.signal] = row.factor * value + row.offset
        self.at = at
        growing = self.preset.growing
        self.counters = {
            name: {s.raw_labels: s.value for s in samples} for name, samples in found.items() if name in growing
        }
        return signals

    def value_of(self, row: Row, found: dict[bytes, list[Sample]], at: float) -> float | None:
        """One row's number, before factor and offset; None when the page does not say."""
        name = next((name for name in row.names if evidence_of(row, name) in found), None)
        if name is None:
            return None
        if row.how in (How.MEAN, How.LAST_MEAN):
            return self.mean(row, name, found, at)
        key = name.encode()
        samples = [s for s in found[key] if abs(s.value) < BLANK and matches(s, row)]
        if not samples:
            return None
        match row.how:
            case How.SUM | How.TOTAL:
                return sum(sample.value for sample in samples)
            case How.MAX:
                return max(sample.value for sample in samples)
            case How.RATE:
                return self.rate(row, key, samples, at)
            case How.LABEL_PRODUCT:
                return sum(label_product(sample, row.labels) for sample in samples) or None

    def rate(self, row: Row, name: bytes, samples: list[Sample], at: float) -> float | None:
        """Averaged increase per second; None until two pages were seen."""
        if not self.at or at <= self.at:
            return None
        per_s = self.increase(name, samples) / (at - self.at)
        return self.averaged(row.signal, per_s, at, peak=False)

    def mean(self, row: Row, name: str, found: dict[bytes, list[Sample]], at: float) -> float | None:
        """Averaged mean of the observations between two pages; the last average when there were none."""
        sums, counts = f"{name}_sum".encode(), f"{name}_count".encode()
        if self.at and counts in found:
            count = self.increase(counts, found[counts])
            if count > 0:
                mean = max(0.0, self.increase(sums, found.get(sums, []))) / count
                if row.how is How.LAST_MEAN:
                    return mean
                return self.averaged(row.signal, mean, at, peak=True)
        average = self.averages.get(row.signal)
        return average.value if average else None

    def averaged(self, signal: Signal, value: float, at: float, *, peak: bool) -> float | None:
        """Take one observation into the signal's average."""
        average = observe(self.averages.get(signal), value, at, self.ewma_s, peak=peak)
        if average is None:
            return None
        self.averages[signal] = average
        return average.value

    def increase(self, name: bytes, samples: list[Sample]) -> float:
        """Growth of a counter since the last page, series by series; one that fell was restarted."""
        before = self.counters.get(name, {})
        total = 0.0
        for sample in samples:
            earlier = before.get(sample.raw_labels, 0.0 if before else sample.value)
            total += sample.value - earlier if sample.value >= earlier else sample.value
        return total


def evidence_of(row: Row, name: str) -> bytes:
    """The name whose presence says that the page has this row."""
    return (f"{name}_count" if row.how in (How.MEAN, How.LAST_MEAN) else name).encode()


def matches(sample: Sample, row: Row) -> bool:
    """Whether a series has the labels the row asks for."""
    return not row.where or all(sample.labels.get(name) == value for name, value in row.where.items())


def label_product(sample: Sample, names: tuple[str, str]) -> float:
    """The product of two numeric labels; 0 when one is missing or no number."""
    try:
        return float(sample.labels[names[0]]) * float(sample.labels[names[1]])
    except (KeyError, ValueError):
        return 0.0
