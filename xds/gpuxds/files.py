"""Reads files that others write: only regular ones, so that a pipe or a device in their place holds nobody up."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError, also for what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "is not a regular file", str(path))
        return file.read()


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8. Raises OSError or UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8")


def read_token(path: Path) -> str:
    """The one token in a file. Raises OSError, or ValueError when the file holds something else."""
    token = read_bytes(path).decode("ascii", "replace").strip()
    if not token or " " in token or not token.isprintable() or "\N{REPLACEMENT CHARACTER}" in token:
        raise ValueError(f"{path}: must hold one token of printable characters")
    return token
