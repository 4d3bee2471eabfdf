"""One stack for all tests: each test leaves it calm, and the next waits until it is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from support.compose import COMPOSE, SETTLE_S, Containers, compose_command, environment, stack_up
from support.stack import free_ports
from support.waiting import until

REQUEST_S = 5.0
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def ports() -> dict[str, int]:
    """Ports on this machine that nobody uses."""
    return dict(zip(("envoy-1", "envoy-2", "prometheus"), free_ports(3), strict=True))


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the stack's policy that tests may change; the containers' user may read it."""
    folder = tmp_path_factory.mktemp("policy")
    folder.chmod(0o755)
    shutil.copy(COMPOSE / "policy.yaml", folder / "policy.yaml")
    return folder


@pytest.fixture(scope="session")
def up(policy_dir: Path, ports: dict[str, int]) -> Iterator[float]:
    """The stack, for the whole session; when it was started."""
    with stack_up(policy_dir, ports) as began:
        yield began


@pytest_asyncio.fixture
async def running(
    up: float, policy_dir: Path, ports: dict[str, int], request: pytest.FixtureRequest
) -> AsyncIterator[Containers]:
    """Handles on the calm stack."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S)) as session:
        containers = Containers(policy_dir, ports, session)
        try:
            await until(containers.calm, SETTLE_S, "both Envoys serve the whole fleet")
            yield containers
        finally:
            if request.node.stash.get(FAILED, True):
                show_logs(policy_dir, ports)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report


def show_logs(policy_dir: Path, ports: dict[str, int]) -> None:
    """The end of every log."""
    command = [*compose_command(), "logs", "--no-color", "--tail", "12"]
    subprocess.run(["sh", "-c", 'exec "$@" 2>&1', "sh", *command], env=environment(policy_dir, ports), check=False)
