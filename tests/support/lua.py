"""Envoy's scripts in the test's process: LuaJIT with a stand-in for Envoy's stream handle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lupa import luajit21

from gpuxds.assets import asset
from gpuxds.snapshot.lua import Literal, literal


class Answered(Exception):
    """The script answered the request by itself."""

    def __init__(self, headers: Mapping[str, str], body: str) -> None:
        super().__init__(body)
        self.headers, self.body = headers, body


@dataclass
class Handle:
    """What a script sees of a request or an answer."""

    sent: dict[str, str]
    """Headers; changes are made here."""
    content: bytes | None = None
    changed: str | None = None
    """The body that the script put in place of another."""
    marks: dict[str, Any] = field(default_factory=dict)

    def headers(self) -> Headers:
        return Headers(self.sent)

    def body(self, _always_wrap: bool = False) -> Body | None:
        return None if self.content is None else Body(self)

    def respond(self, headers: Any, body: bytes) -> None:
        raise Answered({key.decode(): value.decode() for key, value in headers.items()}, body.decode())


@dataclass
class Headers:
    """Envoy's header map."""

    all: dict[str, str]

    def get(self, name: bytes) -> bytes | None:
        found = self.all.get(name.decode())
        return None if found is None else found.encode()

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


def script(name: str, settings: Mapping[str, Literal]) -> Any:
    """The globals of `envoy/NAME.lua` with these settings."""
    return loaded(name, literal(settings))


@cache
def loaded(name: str, settings: str) -> Any:
    runtime = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    runtime.execute(f"local settings = {settings}\n{asset('envoy', f'{name}.lua').read_text()}".encode())
    return Functions(runtime.globals())


@dataclass
class Functions:
    """Global functions by name."""

    table: Any

    def __getattr__(self, name: str) -> Any:
        return self.table[name.encode()]
