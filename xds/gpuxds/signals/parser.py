"""Reads the few series a preset needs from a Prometheus page, and nothing else.

A page is 26 kB and mostly histogram buckets that nobody reads; a full parser spends 5 ms on it. Here one regular
expression knows all wanted names and goes over the page once; it begins with what they have in common, which is
found at memory speed. `vllm:num_requests_waiting` never matches `vllm:num_requests_waiting_by_reason`: after the
name must come labels or white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from gpuxds.errors import SignalError

REST = rb'(?:[ \t]*+\{((?:[^"{}\n]|"(?:[^"\\\n]|\\.)*+")*+)\})?[ \t]++([^\s]++)'
"""After the name: labels, white space, value. A timestamp or an exemplar may follow. Nothing here backtracks or
leaves the line, so a hostile page costs no more than its length."""
LABEL = re.compile(rb'(?<![a-zA-Z0-9_])([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*+)"')
ESCAPE = re.compile(rb"\\(.)")
ESCAPES = {b"n": b"\n"}
GZIP = b"\x1f\x8b"
BLANK = 9.2e18
"""DCGM prints numbers of this size where it has none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of the page."""

    raw_labels: bytes
    """As printed; tells series of one name apart."""
    value: float

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels, unescaped."""
        return parse_labels(self.raw_labels)


def parse_labels(raw: bytes) -> dict[str, str]:
    """`a="x",b="y"` as a mapping, escapes undone."""
    return {name.decode(): unescape(value).decode("utf-8", "replace") for name, value in LABEL.findall(raw)}


def unescape(value: bytes) -> bytes:
    r"""Undo `\\`, `\"` and `\n`."""
    if b"\\" not in value:
        return value
    return ESCAPE.sub(lambda match: ESCAPES.get(match[1], match[1]), value)


def scan(page: bytes, names: Iterable[bytes]) -> dict[bytes, list[Sample]]:
    """Every sample of the wanted names; names that are not on the page are not in the answer.

    Lines that cannot be read are skipped, as Prometheus text has no way to mark them. Raises SignalError
    when the page is no metric page at all.
    """
    refuse_other_pages(page)
    found: dict[bytes, list[Sample]] = {}
    for name, labels, text in pattern_of(tuple(names)).findall(b"\n" + page):
        value = to_number(text)
        if value is not None:
            found.setdefault(name, []).append(Sample(labels, value))
    return found


@lru_cache(maxsize=64)
def pattern_of(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Matches a line of any of these names: name, labels, value."""
    return re.compile(rb"\n(" + b"|".join(re.escape(name) for name in names) + b")" + REST)


def to_number(raw: bytes) -> float | None:
    """A sample's value; None when it is not one."""
    try:
        return float(raw)
    except ValueError:
        return None


def refuse_other_pages(page: bytes) -> None:
    """Raise SignalError for HTML, JSON and binary."""
    start = page[:256].lstrip()[:1]
    if start in (b"<", b"{", b"["):
        kind = {b"<": "HTML", b"{": "JSON", b"[": "JSON"}[start]
        raise SignalError(f"the page is {kind}, not Prometheus text; is the metrics URL right?")
    if b"\x00" in page[:4] or page[:2] == GZIP:
        raise SignalError("the page is binary, not Prometheus text; is the metrics URL right?")
