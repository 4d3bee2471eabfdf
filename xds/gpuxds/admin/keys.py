"""Who may use the API: keys from a file, with roles, compared as hashes in constant time.

A line of the file is `ROLE KEY`, with ROLE `read` or `operate`; a KEY alone may operate. `sha256:HEX` in place of
a key keeps the key itself out of the file. The file is read anew when it changes, so keys can rotate; while it
cannot be read, the keys read last stay.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from gpuxds.errors import EnvironmentProblem
from gpuxds.files import read_text

HASHED = "sha256:"


class Role(IntEnum):
    """What a caller may do; a higher role includes the lower ones."""

    NONE = 0
    READ = 1
    OPERATE = 2


ROLES = {"read": Role.READ, "operate": Role.OPERATE}


def digest_of(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def parse(text: str, file: str) -> Iterator[tuple[Role, bytes]]:
    """Roles and digests of a key file. Raises EnvironmentProblem with the line that is wrong."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        role = ROLES.get(words[0]) if len(words) == 2 else Role.OPERATE
        if role is None or len(words) > 2:
            raise EnvironmentProblem(f"{file}:{number}: write `read KEY`, `operate KEY` or a KEY alone")
        key = words[-1]
        try:
            digest = bytes.fromhex(key.removeprefix(HASHED)) if key.startswith(HASHED) else digest_of(key)
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise EnvironmentProblem(f"{file}:{number}: {HASHED} is followed by 64 hexadecimal digits")
        yield role, digest


@dataclass(slots=True)
class Keys:
    """The keys of a file; without a file everybody may operate."""

    file: Path | None
    read_at: int = -1
    """Modification time of the content that is in force."""
    known: tuple[tuple[Role, bytes], ...] = field(default=())

    def refresh(self) -> None:
        """Read the file if it changed. Raises EnvironmentProblem when it cannot be used and nothing was before."""
        if self.file is None:
            return
        try:
            stamp = self.file.stat().st_mtime_ns
            if stamp != self.read_at:
                self.known = tuple(parse(read_text(self.file), str(self.file)))
                self.read_at = stamp
        except (OSError, UnicodeDecodeError) as error:
            if self.read_at < 0:
                raise EnvironmentProblem(f"{self.file}: cannot be read: {error}") from error
        except EnvironmentProblem:
            if self.read_at < 0:
                raise

    @property
    def asked(self) -> bool:
        """Whether anybody is asked for a key."""
        return self.file is not None

    def role_of(self, key: str) -> Role:
        """What the bearer of `key` may do; every known key is compared, so that time tells nothing."""
        if self.file is None:
            return Role.OPERATE
        self.refresh()
        given, best = digest_of(key), Role.NONE
        for role, digest in self.known:
            if hmac.compare_digest(given, digest):
                best = max(best, role)
        return best
