"""A change is noticed however it is made: in place, by rename, or by swapping a symlink."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuxds.engine.watch import changes, folders


def write_in_place(path: Path) -> None:
    path.write_text("new")


def rename_into_place(path: Path) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text("new")
    beside.replace(path)


@pytest.mark.parametrize("change", [write_in_place, rename_into_place])
async def test_a_saved_file_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("old")
    await noticed(path, lambda: change(path))


async def test_a_swapped_kubernetes_symlink_is_noticed(tmp_path: Path) -> None:
    for name in ("..2024_a", "..2024_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("..2024_a")
    path = tmp_path / "policy.yaml"
    path.symlink_to("..data/policy.yaml")

    def swap() -> None:
        (tmp_path / "..data_tmp").symlink_to("..2024_b")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    await noticed(path, swap)
    assert path.read_text() == "..2024_b"


def test_a_folder_that_does_not_exist_is_not_watched(tmp_path: Path) -> None:
    assert folders([tmp_path / "missing" / "policy.yaml"]) == []


async def noticed(path: Path, change: Callable[[], None]) -> None:
    """Fails unless the watcher yields within the poll interval for a content it has not seen."""
    stop = asyncio.Event()
    before = path.read_text()
    seen = asyncio.Event()

    async def watch() -> None:
        async for _ in changes([path], stop):
            if path.read_text() != before:
                seen.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        while not seen.is_set():
            if path.read_text() == before:
                change()
            try:
                await asyncio.wait_for(seen.wait(), 4)
            except TimeoutError:
                pytest.fail("the change was not noticed within 4 s")
            finally:
                stop.set()
