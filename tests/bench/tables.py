"""What a benchmark prints: Markdown tables, with the machine and its load beside them.

A figure with a target says whether it is met, so that nobody has to compare by eye.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """One table and the command that prints it."""

    title: str
    command: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """Sentences below the table: how it was measured, what was skipped and why."""

    def __str__(self) -> str:
        lines = [f"### {self.title}", "", f"`{self.command}`, {load()}", ""]
        lines += [row_of(self.columns), row_of(["---"] * len(self.columns)), *(row_of(row) for row in self.rows)]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


FIGURES = ("figure", "reached", "target", "", "beside it")
"""Columns of a table of figures with targets."""


def figure(name: str, reached: float, unit: str, target: float | None = None, beside: str = "") -> tuple[str, ...]:
    """A row of a table of figures; the target is the most it may be."""
    if target is None:
        return (name, f"{number(reached)} {unit}", "", "", beside)
    return (name, f"{number(reached)} {unit}", f"≤ {number(target)} {unit}", verdict(reached, target), beside)


def verdict(reached: float, most: float) -> str:
    """Whether a figure that should be small is small enough."""
    return "met" if reached <= most else "NOT MET"


def against(reached: float, most: float | None, unit: str = "") -> str:
    """A figure in a cell of its own, with its verdict when it has a target."""
    text = f"{number(reached)}{unit}"
    return text if most is None else f"{text} ({verdict(reached, most)}: ≤ {number(most)}{unit})"


def number(value: float) -> str:
    """Three digits that matter, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.2g}"


def row_of(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """The machine in a line."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{found[1].strip() if found else platform.machine()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def load() -> str:
    """Load averages, so that a reader can tell a quiet machine from a busy one."""
    one, five, _ = os.getloadavg()
    return f"load average {one:.1f} (1 min) {five:.1f} (5 min)"
