"""Envoy's scripts in the test's process: LuaJIT with a stand-in for Envoy's stream handle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lupa import luajit21

from gpuxds.snapshot.lua import Literal, source


class Answered(Exception):
    """The script answered the request by itself."""

    def __init__(self, headers: Mapping[str, str], body: str) -> None:
        super().__init__(body)
        self.headers, self.body = headers, body


@dataclass
class Handle:
    """What a script sees of a request or an answer."""

    sent: dict[str, Any]
    """Headers; changes are made here."""
    content: bytes | None = None
    changed: str | None = None
    """The body that the script put in place of another."""

    def headers(self) -> Headers:
        return Headers(self.sent)

    def body(self, _always_wrap: bool = False) -> Body | None:
        return None if self.content is None else Body(self)

    def respond(self, headers: Any, body: bytes) -> None:
        raise Answered({key.decode(): value.decode() for key, value in headers.items()}, body.decode())


@dataclass
class Headers:
    """Envoy's header map; a header with several values is a list here."""

    all: dict[str, str | list[str]]

    def values(self, name: bytes) -> list[str]:
        found = self.all.get(name.decode(), [])
        return [found] if isinstance(found, str) else found

    def get(self, name: bytes) -> bytes | None:
        found = self.values(name)
        return ",".join(found).encode() if found else None

    def getNumValues(self, name: bytes) -> int:
        return len(self.values(name))

    def getAtIndex(self, name: bytes, index: float) -> bytes | None:
        found = self.values(name)
        return found[int(index)].encode() if 0 <= index < len(found) else None

    def replace(self, name: bytes, value: bytes) -> None:
        self.all[name.decode()] = value.decode()

    def remove(self, name: bytes) -> None:
        self.all.pop(name.decode(), None)


@dataclass
class Body:
    """Envoy's buffer."""

    of: Handle

    def length(self) -> int:
        return len(self.of.content or b"")

    def getBytes(self, index: int, length: int) -> bytes:
        content = self.of.content or b""
        assert 0 <= index <= index + length <= len(content), "Envoy fails outside of the buffer"
        return content[int(index) : int(index + length)]

    def setBytes(self, text: bytes) -> None:
        self.of.changed = text.decode()


def script(names: Sequence[str], settings: Mapping[str, Literal]) -> Any:
    """The global functions of these scripts of `envoy/` with these settings."""
    return loaded(source(names, settings))


@cache
def loaded(text: str) -> Any:
    runtime = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    runtime.execute(text.encode())
    return Functions(runtime.globals())


@dataclass
class Functions:
    """Global functions by name."""

    table: Any

    def __getattr__(self, name: str) -> Any:
        return self.table[name.encode()]
