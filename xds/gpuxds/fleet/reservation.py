"""Endpoints set aside for whoever holds an unguessable id: what is kept of a reservation.

The id is a secret: a request that carries it reaches the reserved endpoints, and nobody else does. People, logs,
events and Envoy's cluster names use the reservation's name, which tells nothing of the id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

HEADER = "x-gpuxds-reservation"
"""Request header that carries the id."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Endpoints of one pool that serve one holder's requests only."""

    id: str = field(repr=False)
    pool: str
    endpoints: tuple[str, ...]
    """Ids, in the order they were chosen."""
    created_at: float
    """Unix seconds."""
    expires_at: float
    """Unix seconds; from then on they serve everybody again."""
    note: str = ""
    """What it is for, in the holder's words."""

    @property
    def name(self) -> str:
        """How it is called where its id must not be seen."""
        return "r-" + hashlib.sha256(self.id.encode()).hexdigest()[:10]
