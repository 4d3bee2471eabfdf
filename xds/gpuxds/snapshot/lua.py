"""Envoy's Lua filter around a script of `envoy/`, with what the policy says written above it.

A script that fails lets its request pass, as Envoy decides; so what a script must guarantee, such as that a header
of ours is not a client's, is not left to it.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any as PackedMessage

from gpuxds.assets import asset

Literal = str | float | bool | None | Mapping[str, "Literal"] | Sequence["Literal"]


def lua_filter(name: str, scripts: Sequence[str], settings: Mapping[str, Literal]) -> hcm.HttpFilter:
    """The filter `name` that runs these scripts of `envoy/`, as one, with these settings."""
    code = core.DataSource(inline_string=source(scripts, settings))
    return http_filter(name, lua.Lua(default_source_code=code))


def http_filter(name: str, message: Any) -> hcm.HttpFilter:
    """A filter of any kind under its name."""
    return hcm.HttpFilter(name=name, typed_config=PackedMessage.pack(message))


def source(scripts: Sequence[str], settings: Mapping[str, Literal]) -> str:
    """The text that Envoy runs."""
    return "\n".join([f"local settings = {literal(settings)}", *map(text_of, scripts)])


@cache
def text_of(script: str) -> str:
    """A script as it stands in `envoy/`; it does not change while the program runs."""
    return asset("envoy", f"{script}.lua").read_text(encoding="utf-8")


def literal(value: Literal) -> str:
    """A value as Lua writes it; entries that are None are left out, as in every Lua table."""
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(quoted(byte) for byte in value.encode()) + '"'
        case int() | float():
            return repr(value)
        case Mapping():
            pairs = (f"[{literal(key)}] = {literal(found)}" for key, found in value.items() if found is not None)
            return "{" + ", ".join(pairs) + "}"
        case _:
            return "{" + ", ".join(map(literal, value)) + "}"


def quoted(byte: int) -> str:
    """A byte inside a Lua string: as it is where that is safe, by its number otherwise."""
    character = chr(byte)
    return character if byte < 128 and (character.isalnum() or character in " -_./:") else f"\\{byte:03d}"
