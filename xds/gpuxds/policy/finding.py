"""What is wrong between fields of a policy, before it has a file and a line."""

from __future__ import annotations

from dataclasses import dataclass

from gpuxds.policy.positions import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem between fields."""

    path: Path
    message: str
    severity: str = "error"
