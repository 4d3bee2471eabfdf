"""Real parts: a test that needs one says `@pytest.mark.real("envoy")`.

Where the part is absent the test is skipped with the command that installs it. With `GPUXDS_REQUIRE_ALL=1`
nothing may be skipped: a skip is a failure, so that a machine meant to run everything cannot quietly not.

Tests on real parts hold promises in seconds, with real processes under load. A shared machine that stalls for a
moment breaks them without a defect, so they are tried again, twice at most, and each new try is told at the end.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog

from support.parts import why_absent

INTEGRATION = Path(__file__).parent / "integration"
REQUIRE_ALL = os.environ.get("GPUXDS_REQUIRE_ALL") == "1"


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """A command under test configures logging to streams that end with it."""
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=3))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("real"):
        for part in marker.args:
            reason = why_absent(part)
            if reason:
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although GPUXDS_REQUIRE_ALL=1: {item.nodeid}: {report.longrepr}"
    return report
