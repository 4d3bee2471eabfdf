"""Rows per provider add up, and what is not known stays unknown."""

from __future__ import annotations

import pytest

from gpuxds.cli.load import by_provider


def row(provider: str | None, running: float | None, latency: float | None) -> dict[str, object]:
    known = {"active": 1.0, "waiting": 0.0, "capacity": 10, "total": 5.0, "failed": None}
    return {"provider": provider, "running": running, "average_response_s": latency, **known}


def test_providers_add_up_and_busy_servers_count_more_for_the_mean() -> None:
    rows = [row("x", 9.0, 2.0), row("x", 0.0, 13.0), row("y", None, None), row(None, 1.0, 1.0)]
    found = {line["provider"]: line for line in by_provider(rows)}
    assert list(found) == ["(no provider label)", "x", "y"]
    assert found["x"]["running"] == 9
    assert found["x"]["capacity"] == 20
    assert found["x"]["failed"] is None
    assert found["x"]["average_response_s"] == pytest.approx((2.0 * 10 + 13.0 * 1) / 11)
    assert found["y"]["running"] is None
    assert found["y"]["average_response_s"] is None
