"""How cost grows with endpoints and with streams, and the exponent of each curve.

An exponent is the slope of the line through the logarithms (least squares): 1 is proportional, 0 is independent.
Two things are measured: the server's push path alone over real sockets, and, without sockets, what the engine does
with a fleet each second: view, decision, encoding.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from bench.bench_hot_paths import prepared_decision, prepared_encoding
from bench.bench_push import OURS, Load, Outcome, measure
from bench.tables import Table, number

BY_ENDPOINTS = (100, 1_000, 10_000, 50_000)
STREAMS = 100
BY_STREAMS = (10, 100, 1_000, 3_000)
ENDPOINTS = 1_000
SECONDS = 10.0
COMMAND = "make bench ARGS=growth"
CURVES: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
    ("CPU, cores", lambda o: o.cpu),
    ("RSS MB", lambda o: o.rss_mb),
    ("p50 ms", lambda o: o.p50_ms),
    ("p99 ms", lambda o: o.p99_ms),
    ("pushes/s", lambda o: o.pushes_per_s),
)


async def growth() -> AsyncIterator[Table]:
    """Three tables."""
    endpoints = [await measure(OURS, Load(count, STREAMS, SECONDS)) for count in BY_ENDPOINTS]
    yield table(f"Growth with endpoints, {STREAMS} streams, 1 Hz", "endpoints", BY_ENDPOINTS, columns_of(endpoints))
    streams = [await measure(OURS, Load(ENDPOINTS, count, SECONDS)) for count in BY_STREAMS]
    yield table(f"Growth with streams, {ENDPOINTS:,} endpoints, 1 Hz", "streams", BY_STREAMS, columns_of(streams))
    yield table("Growth of one decision", "endpoints", BY_ENDPOINTS, engine_columns())


def columns_of(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """Curve -> values."""
    return {name: [value(outcome) for outcome in outcomes] for name, value in CURVES}


def engine_columns() -> dict[str, list[float]]:
    """Milliseconds of each step, by fleet size; the best of several."""
    return {
        "view and decide, ms": [best_ms(prepared_decision(count)) for count in BY_ENDPOINTS],
        "encode, ms": [best_ms(prepared_encoding(count)) for count in BY_ENDPOINTS],
    }


def best_ms(call: Callable[[], object], rounds: int = 10) -> float:
    """The fastest of several calls, in milliseconds of CPU."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return 1000 * min(times)


def table(title: str, axis: str, sizes: Sequence[int], columns: dict[str, list[float]]) -> Table:
    """Values by size, and the exponents in the last row."""
    rows = [
        (f"{size:,}", *(number(values[index]) for values in columns.values())) for index, size in enumerate(sizes)
    ]
    rows.append(("exponent", *(f"{exponent(sizes, values):.2f}" for values in columns.values())))
    return Table(title, COMMAND, (axis, *columns), tuple(rows))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Slope of ln(value) over ln(size)."""
    slope: float = np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0]
    return slope
