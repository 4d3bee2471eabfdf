"""What can be made to go wrong with a fake GPU server."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults in force. Their defaults are health."""

    throttle: float = 1.0
    """Factor by which the GPU is slower; its DCGM page says so."""
    slow: float = 1.0
    """Factor by which the server is slower without any hardware signal."""
    hang: bool = False
    """Connections are accepted and never answered."""
    die: bool = False
    """Nothing listens; connections that were open are reset."""
    xid: int = 0
    """NVIDIA XID on the DCGM page; 0: none."""
    blind: bool = False
    """Metric pages answer 503; requests are served."""
    errors: float = 0.0
    """Share of requests answered with 500."""

    def changed(self, wishes: dict[str, Any]) -> Faults:
        """These faults with some changed. Raises ValueError naming what is wrong."""
        known = {field.name: field for field in fields(self)}
        for name, value in wishes.items():
            if name not in known:
                raise ValueError(f"no fault {name!r}; there are {', '.join(known)}")
            wanted = type(known[name].default)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(value, bool) if wanted is bool else number):
                raise ValueError(f"{name}: {value!r} is not a {wanted.__name__}")
            if name in ("throttle", "slow") and value < 1:
                raise ValueError(f"{name}: {value!r}; 1 is healthy, 2 is half as fast")
        return replace(self, **wishes)

    @property
    def speed(self) -> float:
        """Clock ratio that results."""
        return 1.0 / (self.throttle * self.slow)
