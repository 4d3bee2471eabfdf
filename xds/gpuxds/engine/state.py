"""What survives a restart: the decision's memory, drains, the proxy census and the last good policy.

One JSON file, replaced atomically, so that a kill at any moment leaves the old or the new one. A file that
cannot be read is set aside and reported, never an obstacle to starting: fail-static concerns Envoy, which
still has its weights; we then start from fresh signals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gpuxds.errors import StateError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """Everything that is saved, as plain JSON values."""

    saved_at: float = 0.0
    pools: Mapping[str, Any] = field(default_factory=dict)
    """Pool name -> `scoring.memory` document."""
    drains: list[dict[str, Any]] = field(default_factory=list)
    proxies: Mapping[str, int] = field(default_factory=dict)
    policy_text: str = ""
    """The last policy that was in force."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Pool -> strategy that was set while the server ran."""
    registry: Mapping[str, Any] = field(default_factory=dict)
    """Endpoints that were registered over the API."""
    answers: Mapping[str, list[str]] = field(default_factory=dict)
    """Host name -> addresses of the last lookup that succeeded."""
    reservations: list[dict[str, Any]] = field(default_factory=list)


ADAPTER = TypeAdapter(SavedState)


def load(path: Path) -> SavedState | None:
    """The saved state; None when there is none. Raises StateError when it cannot be used."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise StateError(f"{path}: format {document['format']}, this gpuxds reads format {FORMAT}")
        known = {item.name for item in fields(SavedState)}
        found = {name: value for name, value in document.items() if name in known}
        return ADAPTER.validate_python({"pools": document["pools"], **found})
    except (ValueError, KeyError, TypeError) as error:
        aside = path.with_suffix(".unreadable")
        path.replace(aside)
        why = " ".join(str(error).split())
        raise StateError(f"{path}: not a state file ({why}); set aside as {aside.name}") from error


def encode(state: SavedState) -> bytes:
    """The file's content."""
    document = {"format": FORMAT} | {item.name: getattr(state, item.name) for item in fields(state)}
    return json.dumps(document, separators=(",", ":")).encode()


def private(path: str, flags: int) -> int:
    """Opens a file that nobody else may read: ids of reservations are in it."""
    return os.open(path, flags, 0o600)


def save(path: Path, content: bytes) -> None:
    """Replace the file atomically. Raises StateError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        with open(temporary, "wb", opener=private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror}") from error
