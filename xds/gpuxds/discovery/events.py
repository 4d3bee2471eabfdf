"""What goes in and out of a session, as plain values: no sockets, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who a client says it is."""

    id: str
    cluster: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries of node.metadata whose value is a string."""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """A message to write."""

    type_url: str
    nonce: str
    """Not used on this stream before."""
    message: bytes = field(repr=False)
    """Encoded, nonce included; shared between streams."""
    names: tuple[str, ...]
    """Resources in it."""
    version: str
    """Version of the whole set it was taken from."""


@dataclass(frozen=True, slots=True)
class Acked:
    """A client accepted a response."""

    type_url: str
    version: str


@dataclass(frozen=True, slots=True)
class Nacked:
    """A client rejected a response and keeps what it had."""

    type_url: str
    version: str
    names: tuple[str, ...]
    """Resources of the response it rejected; one of them is at fault."""
    message: str
    """The client's own words, cut to `session.MAX_NACK_CHARS`."""


Event = Acked | Nacked


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """How one proxy stands with one resource type."""

    type_url: str
    sent_version: str
    acked_version: str
    in_sync: bool
    """It has accepted all there is now."""
    nack_message: str
    """Why it rejected the last response; empty when it did not."""
    nack_names: tuple[str, ...]
    resources: int
    """How many it was told about."""


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One connected proxy."""

    node_id: str
    node_cluster: str
    group: str
    mode: str
    """`delta` or `sotw`."""
    peer: str
    user_agent: str
    connected_at: float
    """Unix seconds."""
    in_sync: bool
    types: tuple[TypeStatus, ...]
