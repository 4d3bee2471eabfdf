"""What happened, in order: the last events, for people who watch and for programs that resume.

Ids grow over restarts too, because they begin at the time of the start in milliseconds; a reader that names the
last id it saw gets what came after, as far back as the log goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 2_000


@dataclass(frozen=True, slots=True)
class Happening:
    """One event."""

    id: int
    at: float
    """Unix seconds."""
    kind: str
    """`push`, `health`, `alarm`, `drain`, `undrain`, `reload`, `nack`, `proxy`, `fleet`, `strategy`, `reserve`,
    `extend`, `release`, `expire`; and, to one reader only, `gap`."""
    data: Mapping[str, Any]


@dataclass(slots=True)
class EventLog:
    """The last `KEPT` events. One event loop writes and reads."""

    next_id: int
    kept: deque[Happening] = field(default_factory=lambda: deque(maxlen=KEPT))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, kind: str, at: float, **data: Any) -> None:
        """Something happened."""
        self.kept.append(Happening(self.next_id, at, kind, data))
        self.next_id += 1
        waiting, self.changed = self.changed, asyncio.Event()
        waiting.set()

    def missed(self, last_id: int) -> bool:
        """Whether events that came after the one of this id are no longer kept; 0 asks for all that are."""
        oldest = self.kept[0].id if self.kept else self.next_id
        return 0 < last_id < oldest - 1

    def after(self, last_id: int) -> list[Happening]:
        """Events with a larger id, oldest first."""
        return [event for event in self.kept if event.id > last_id]
