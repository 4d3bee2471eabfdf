"""`gpuxds load`: how busy every server is, or every provider."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from gpuxds.cli.client import DEFAULT, Admin, AsJson, call
from gpuxds.cli.layout import show
from gpuxds.cli.tables import loads_table

SUMS = ("active", "running", "waiting", "capacity", "total", "failed")
NO_PROVIDER = "(no provider label)"


class By(StrEnum):
    """What a row is."""

    SERVER = "server"
    PROVIDER = "provider"


def load(
    by: Annotated[By, typer.Argument(help="What a row is.")] = By.SERVER,
    admin: Admin = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show requests in flight, sent, failed: per server or provider.

    The provider is the endpoints' label `provider`.
    """
    answer = call(admin, "/api/v1/loadbalancer/loads")
    if by is By.PROVIDER:
        answer = {"providers": by_provider(answer["instances"])}
    ((first, rows),) = answer.items()
    show(answer, as_json, lambda width: loads_table(rows, first.removesuffix("s"), width))


def by_provider(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per provider: sums of what is known, and the mean latency weighted by requests running."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["provider"] or NO_PROVIDER, []).append(row)
    return [
        {"provider": provider, **{name: total(members, name) for name in SUMS}, "average_response_s": mean(members)}
        for provider, members in sorted(found.items())
    ]


def total(rows: list[dict[str, Any]], name: str) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known else None


def mean(rows: list[dict[str, Any]]) -> float | None:
    """Mean response time, each server counting as much as it runs; None when nobody knows."""
    known = [(row["average_response_s"], 1 + (row["running"] or 0)) for row in rows if row["average_response_s"]]
    weight = sum(count for _, count in known)
    return sum(value * count for value, count in known) / weight if known else None
