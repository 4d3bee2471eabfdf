"""How many proxies balance over a pool: the E of the weight law, steady through reconnects and restarts.

A proxy that reconnects is gone for a moment, and a control plane that restarts knows none for a second or
two. Weights depend on E, so each would move all of them for nothing. A count therefore rises at once and
falls only after it has been lower for `hold_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Census:
    """Highest count per pool within the last `hold_s` seconds."""

    hold_s: float = 15.0
    seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Pool -> (count, unix seconds when that count was last true)."""

    def observe(self, pool: str, count: int, now: float) -> int:
        """The count to use now, given what is connected."""
        held, at = self.seen.get(pool, (0, now))
        if count >= held or now - at > self.hold_s:
            self.seen[pool] = (count, now)
            return count
        return held

    def dump(self) -> dict[str, int]:
        """What to remember over a restart."""
        return {pool: count for pool, (count, _) in self.seen.items()}

    def restore(self, counts: Mapping[str, int], now: float) -> None:
        """Start from what was connected before the restart; forgotten after `hold_s` if nobody returns."""
        self.seen = {pool: (count, now) for pool, count in counts.items()}
