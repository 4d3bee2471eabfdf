"""Why each weight is what it is, in numbers that multiply out, and in a sentence.

Built when somebody asks and not before: a decision over 10,000 endpoints has no time for prose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuxds.scoring.contract import EnvoyHealth, Health, PoolDecision
from gpuxds.scoring.health import Cause
from gpuxds.scoring.weights import product
from gpuxds.signals.model import Floats, Freshness, Signal

CAUSES: Mapping[Cause, str] = {
    Cause.NOT_HEARD: "has not answered yet",
    Cause.SILENT: "its metrics are silent, its port is being asked",
    Cause.KEPT: "judged unfit, but the pool cannot spare it",
    Cause.DRAIN: "drained by an operator",
    Cause.REFUSED: "its port refuses connections",
    Cause.ASLEEP: "the engine is asleep",
    Cause.LOST: "its heartbeats have stopped",
    Cause.TIMEOUTS: "its port does not answer",
    Cause.ERRORS: "its requests fail one after the other",
    Cause.XID_DRAIN: "an XID asks for a drain",
    Cause.GPU_MISSING: "a GPU is missing from what it reports",
    Cause.HARDWARE: "its hardware reports a fault",
}
SHOWN = tuple(signal for signal in Signal if signal < Signal.ANSWERED)
NOTABLE = 0.2
"""|ln| of a factor, against the median endpoint, from which a reason mentions it."""


@dataclass(frozen=True, slots=True)
class ExplainedTerm:
    """One factor of one endpoint."""

    name: str
    value: float
    why: str
    inputs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ExplainedInput:
    """One signal of one endpoint."""

    name: str
    value: float
    age_s: float
    freshness: str


@dataclass(frozen=True, slots=True)
class ExplainedEndpoint:
    """One endpoint, explained."""

    id: str
    health: str
    envoy_health: str
    weight: int
    """As Envoy is told."""
    wanted: int
    """What the signals ask for now: scale x product / the largest product of the pool."""
    share: float
    """Share of new requests to expect under the pool's weights and the requests it runs now, 0..1."""
    relaxation: float
    terms: tuple[ExplainedTerm, ...]
    product: float
    inputs: tuple[ExplainedInput, ...]
    reason: str


def explain(decision: PoolDecision, only: str | None = None) -> list[ExplainedEndpoint]:
    """Every endpoint of a pool, or one, explained."""
    middles = medians(decision)
    products = product(decision.terms, len(decision.ids))
    shares = predicted_shares(decision)
    freshness = {signal: decision.view.freshness(signal) for signal in SHOWN}
    return [
        ExplainedEndpoint(
            id=endpoint_id,
            health=Health(int(decision.health[row])).name.lower(),
            envoy_health=EnvoyHealth(int(decision.envoy_health[row])).name,
            weight=int(decision.weights[row]),
            wanted=int(decision.wanted[row]),
            share=float(shares[row]),
            relaxation=float(decision.relaxation[row]),
            terms=tuple(
                ExplainedTerm(
                    term.name,
                    float(term.values[row]),
                    term.why,
                    {name: float(column[row]) for name, column in term.inputs.items()},
                )
                for term in decision.terms
            ),
            product=float(products[row]),
            inputs=tuple(
                ExplainedInput(
                    signal.name.lower(),
                    float(decision.view.values[signal, row]),
                    decision.view.age_at(signal, row),
                    Freshness(int(freshness[signal][row])).name.lower(),
                )
                for signal in SHOWN
            ),
            reason=reason(decision, row, middles),
        )
        for row, endpoint_id in enumerate(decision.ids)
        if only in (None, endpoint_id)
    ]


def predicted_shares(decision: PoolDecision) -> Floats:
    """Shares of new requests: least request divides each weight by the requests a proxy has there, plus 1."""
    serving = (decision.envoy_health == EnvoyHealth.HEALTHY) & decision.in_eds
    load = decision.view.fresh(Signal.RUNNING) + decision.view.fresh(Signal.WAITING)
    active = np.nan_to_num(load) / max(1, decision.proxies)
    attraction = np.where(serving, decision.weights / (active + 1), 0.0)
    total = attraction.sum()
    shares: Floats = attraction / total if total > 0 else attraction
    return shares


def medians(decision: PoolDecision) -> tuple[float, ...]:
    """The median of each factor; computed once where many endpoints are told about."""
    return tuple(float(np.median(term.values)) if len(decision.ids) else 0.0 for term in decision.terms)


def reason(decision: PoolDecision, row: int, middles: tuple[float, ...] | None = None) -> str:
    """One sentence on an endpoint; `middles` are the `medians` of the decision, when they are known already."""
    cause = Cause(int(decision.cause[row]))
    if cause in CAUSES:
        return CAUSES[cause] + fault(decision, row, cause)
    if decision.frozen:
        return "frozen: its pool fell silent at once"
    if decision.relaxation[row] > 0:
        return f"load unknown, {100 * decision.relaxation[row]:.0f} % of the way to its baseline"
    if decision.equal:
        return decision.note or "equal weights"
    found = zip(decision.terms, medians(decision) if middles is None else middles, strict=True)
    parts = [text for term, middle in found if (text := notable(term.name, float(term.values[row]), middle))]
    return ", ".join(parts) or "as its capacity"


def fault(decision: PoolDecision, row: int, cause: Cause) -> str:
    """Which hardware fault it is, for people who will look it up."""
    signals = {Cause.HARDWARE: Signal.XID_OUT, Cause.XID_DRAIN: Signal.XID_DRAIN}
    code = decision.view.value_at(signals[cause], row) if cause in signals else np.nan
    if code > 0:
        return f" (XID {code:.0f})"
    fatal_ecc = cause is Cause.HARDWARE and decision.view.value_at(Signal.ECC_FATAL, row) > 0
    return " (ECC: double-bit error or failed row remap)" if fatal_ecc else ""


def notable(name: str, value: float, middle: float) -> str:
    """A factor that sets an endpoint apart from the median one."""
    if middle <= 0 or value <= 0:
        return ""
    ratio = value / middle
    return f"{name} x{ratio:.2g}" if abs(np.log(ratio)) > NOTABLE else ""
