"""Notices that files changed, however they were changed.

Editors write in place, or write beside and rename; Kubernetes swaps a `..data` symlink. Watching a file's
inode misses two of the three, so the folders are watched (the one the path names and the one it resolves
to), any event there counts, and the reader compares contents. A poll twice a second covers file systems
without events, and what was saved between reading a file and watching it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from watchfiles import awatch

POLL_MS = 500
DEBOUNCE_MS = 100


def folders(paths: Iterable[Path]) -> list[Path]:
    """The existing folders whose events concern these paths (globs allowed in the last part)."""
    found: set[Path] = set()
    for path in paths:
        for folder in (path.absolute().parent, path.resolve().parent):
            if folder.is_dir():
                found.add(folder)
    return sorted(found)


async def changes(paths: Iterable[Path], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield whenever something near `paths` may have changed, and on every poll, until `stop`."""
    watched = folders(paths)
    if not watched:
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), POLL_MS / 1000)
            except TimeoutError:
                yield None
        return
    async for _ in awatch(
        *watched,
        recursive=False,
        debounce=DEBOUNCE_MS,
        step=20,
        rust_timeout=POLL_MS,
        yield_on_timeout=True,
        stop_event=stop,
        ignore_permission_denied=True,
        watch_filter=None,
    ):
        yield None
