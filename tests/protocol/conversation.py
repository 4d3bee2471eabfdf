"""Conversations with a session, without sockets: what a client says, and everything the server answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from gpuxds.discovery.encoding import Bodies
from gpuxds.discovery.events import Event, Response
from gpuxds.discovery.session import DeltaSession, Session, SotwSession
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource, Snapshot
from gpuxds.snapshot.versions import resource_set
from gpuxds.wire import xds_pb2 as pb

MAX_ANSWERS = 50
"""More answers to one message than this is a loop."""


def made(type_url: str, name: str, version: str, *, on_request_only: bool = False) -> Resource:
    """A resource whose content is its name and version."""
    content = AnyMessage(type_url=type_url, value=f"{name}@{version}".encode())
    return Resource(name, version, content.SerializeToString(), on_request_only)


def snapshot(
    clusters: Mapping[str, str] | None = None,
    endpoints: Mapping[str, str] | None = None,
    listeners: Mapping[str, str] | None = None,
    routes: Mapping[str, str] | None = None,
    on_request_only: Sequence[str] = (),
) -> Snapshot:
    """A snapshot from name -> version; endpoints default to version 1 for each cluster."""
    clusters = {"a": "1"} if clusters is None else clusters
    endpoints = dict.fromkeys(clusters, "1") if endpoints is None else endpoints
    parts = {
        CLUSTER: clusters,
        ENDPOINTS: endpoints,
        LISTENER: {"in": "1"} if listeners is None else listeners,
        ROUTES: {"r": "1"} if routes is None else routes,
    }
    return Snapshot(
        {
            type_url: resource_set(
                made(type_url, name, version, on_request_only=name in on_request_only)
                for name, version in found.items()
            )
            for type_url, found in parts.items()
        }
    )


@dataclass
class Client:
    """One side of a conversation; `session` is the other."""

    session: Session[Any]
    snapshot: Snapshot | None = field(default_factory=snapshot)
    bodies: Bodies = field(default_factory=Bodies)
    named: bool = False
    events: list[Event] = field(default_factory=list)

    def node(self) -> dict[str, Any]:
        """The node, on the first message only."""
        first, self.named = not self.named, True
        return {"node": pb.Node(id="n1", cluster="c1")} if first else {}

    def hear(self) -> list[Any]:
        """Everything the server has to say now, decoded."""
        heard: list[Any] = []
        while self.snapshot is not None and (response := self.session.next(self.snapshot, self.bodies)):
            heard.append(self.decode(response))
            assert len(heard) < MAX_ANSWERS, "the server does not stop answering"
        return heard

    def publish(self, found: Snapshot) -> list[Any]:
        """A new snapshot is in force."""
        self.snapshot = found
        return self.hear()

    def decode(self, response: Response) -> Any:
        raise NotImplementedError


@dataclass
class Sotw(Client):
    """A state-of-the-world client."""

    session: Session[Any] = field(default_factory=SotwSession)

    def decode(self, response: Response) -> pb.DiscoveryResponse:
        return pb.DiscoveryResponse.FromString(response.message)

    def say(self, type_url: str, names: Sequence[str] = (), **fields: Any) -> list[pb.DiscoveryResponse]:
        """Send a request."""
        request = pb.DiscoveryRequest(type_url=type_url, resource_names=names, **self.node(), **fields)
        self.events += self.session.receive(request)
        return self.hear()

    def ack(self, response: pb.DiscoveryResponse, names: Sequence[str] = ()) -> list[pb.DiscoveryResponse]:
        """Accept."""
        return self.say(response.type_url, names, version_info=response.version_info, response_nonce=response.nonce)

    def nack(
        self, response: pb.DiscoveryResponse, names: Sequence[str] = (), message: str = "no", version: str = ""
    ) -> list[pb.DiscoveryResponse]:
        """Reject."""
        return self.say(
            response.type_url, names, version_info=version, response_nonce=response.nonce,
            error_detail=pb.Status(code=13, message=message),
        )  # fmt: skip


@dataclass
class Delta(Client):
    """An incremental client."""

    session: Session[Any] = field(default_factory=DeltaSession)

    def decode(self, response: Response) -> pb.DeltaDiscoveryResponse:
        return pb.DeltaDiscoveryResponse.FromString(response.message)

    def say(
        self, type_url: str, subscribe: Sequence[str] = (), unsubscribe: Sequence[str] = (), **fields: Any
    ) -> list[pb.DeltaDiscoveryResponse]:
        """Send a request."""
        request = pb.DeltaDiscoveryRequest(
            type_url=type_url, resource_names_subscribe=subscribe, resource_names_unsubscribe=unsubscribe,
            **self.node(), **fields,
        )  # fmt: skip
        self.events += self.session.receive(request)
        return self.hear()

    def ack(self, response: pb.DeltaDiscoveryResponse) -> list[pb.DeltaDiscoveryResponse]:
        """Accept."""
        return self.say(response.type_url, response_nonce=response.nonce)

    def nack(self, response: pb.DeltaDiscoveryResponse, message: str = "no") -> list[pb.DeltaDiscoveryResponse]:
        """Reject."""
        detail = pb.Status(code=13, message=message)
        return self.say(response.type_url, response_nonce=response.nonce, error_detail=detail)


def names(response: Any) -> list[str]:
    """Names of a response's resources, from their content."""
    if isinstance(response, pb.DeltaDiscoveryResponse):
        return [found.name for found in response.resources]
    return [found.value.decode().partition("@")[0] for found in response.resources]


def contents(response: Any) -> list[str]:
    """`name@version` of a response's resources."""
    if isinstance(response, pb.DeltaDiscoveryResponse):
        return [found.resource.value.decode() for found in response.resources]
    return [found.value.decode() for found in response.resources]


def types(responses: Sequence[Any]) -> list[str]:
    """Types of responses, in order."""
    return [response.type_url for response in responses]
