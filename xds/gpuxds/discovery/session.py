"""One xDS stream as a state machine: requests go in, the next response comes out. No sockets, no clock.

    session.receive(request) -> events      what an ACK, a NACK or a new subscription means
    session.next(snapshot)   -> Response    what to write now, or None when the client has it all

`next` goes through the types in push order (clusters, endpoints, listeners, routes), so that what is referred
to is sent before what refers to it (C50). It never waits for one type's ACK to serve another: Envoy holds
back the ACK of clusters that wait for their endpoints (E5).

Both protocols share subscriptions; they differ in how requests change them and in what a response lists.

Protocol: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol. The letters are those of the
conformance list in tests/protocol/.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

from gpuxds.discovery.encoding import Bodies, Body
from gpuxds.discovery.events import Acked, Event, Nacked, NodeInfo, Response, TypeStatus
from gpuxds.discovery.subscription import FULL_STATE_TYPES, WILDCARD, Subscription
from gpuxds.errors import ProtocolError
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, PUSH_ORDER, Resource, Snapshot
from gpuxds.wire import xds_pb2 as pb

MAX_NACK_CHARS = 4096
MAX_TYPES = 32
MAX_NAMES = 50_000
"""Names one stream may ask for of one type."""
MAX_NAME_CHARS = 2048
MAX_PENDING = 64
"""Un-acknowledged responses of one type whose content is remembered."""

Request = TypeVar("Request", pb.DiscoveryRequest, pb.DeltaDiscoveryRequest)


class Session(ABC, Generic[Request]):
    """What both protocols have in common."""

    mode = ""

    def __init__(self, *, only_type: str = "") -> None:
        self.only_type = only_type
        """Type of a stream that serves one; empty on the aggregated stream."""
        self.node: NodeInfo | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.rewarm: set[str] = set()
        """Clusters that this stream was sent as new or changed: Envoy waits for their endpoints, even for
        those it already has (C25, C38)."""
        self.newest = 0
        """Number of the newest body this stream was sent."""
        self.repeats = 0

    # -- requests ---------------------------------------------------------------------------------------

    def receive(self, request: Request) -> tuple[Event, ...]:
        """Take in a request. Raises ProtocolError when it cannot be part of the protocol."""
        self.identify(request)
        subscription = self.subscription(request)
        events = self.settle(subscription, request)
        self.subscribe(subscription, request)
        return events

    def identify(self, request: Request) -> None:
        """The first message says who the client is; later ones need not, and cannot change it (C1)."""
        if self.node is not None:
            return
        node = request.node
        if not node.id:
            raise ProtocolError("the first request of a stream must have node.id; set it in Envoy's bootstrap")
        strings = {
            key: value.string_value
            for key, value in node.metadata.fields.items()
            if value.WhichOneof("kind") == "string_value"
        }
        self.node = NodeInfo(node.id, node.cluster, strings, node.user_agent_name)

    def subscription(self, request: Request) -> Subscription:
        """The state of the request's type."""
        type_url = request.type_url or self.only_type
        if not type_url:
            raise ProtocolError("a request on the aggregated stream must have a type_url")
        if self.only_type and type_url != self.only_type:
            raise ProtocolError(f"this stream serves {self.only_type}, not {type_url}")
        if type_url not in self.subscriptions:
            if len(self.subscriptions) >= MAX_TYPES:
                raise ProtocolError(f"more than {MAX_TYPES} resource types on one stream", "RESOURCE_EXHAUSTED")
            self.subscriptions[type_url] = Subscription(type_url)
        return self.subscriptions[type_url]

    def settle(self, subscription: Subscription, request: Request) -> tuple[Event, ...]:
        """ACK or NACK of the response whose nonce it bears; other nonces are stale and settle nothing."""
        nonce = request.response_nonce
        if nonce not in subscription.pending:
            return ()
        version, names = subscription.pending.pop(nonce)
        if nonce == subscription.awaiting:
            subscription.awaiting = ""
        if request.HasField("error_detail"):
            message = (request.error_detail.message or "no message")[:MAX_NACK_CHARS]
            subscription.nack_message, subscription.nack_names = message, names
            return (Nacked(subscription.type_url, version, names, message),)
        subscription.acked_version = version
        subscription.nack_message, subscription.nack_names = "", ()
        return (Acked(subscription.type_url, version),)

    @abstractmethod
    def subscribe(self, subscription: Subscription, request: Request) -> None:
        """Apply what the request asks for."""

    # -- responses --------------------------------------------------------------------------------------

    def next(self, snapshot: Snapshot, bodies: Bodies) -> Response | None:
        """The next message to write, noted as sent; None when there is nothing to say now."""
        for type_url in PUSH_ORDER:
            if type_url in self.subscriptions:
                response = self.respond(self.subscriptions[type_url], snapshot, bodies)
                if response is not None:
                    return response
        for type_url, subscription in self.subscriptions.items():
            if type_url not in PUSH_ORDER:
                response = self.respond(subscription, snapshot, bodies)
                if response is not None:
                    return response
        return None

    def respond(self, subscription: Subscription, snapshot: Snapshot, bodies: Bodies) -> Response | None:
        """The response of one type, unless the client has it all or still owes an ACK (C60)."""
        if subscription.awaiting and not subscription.urgent:
            return None
        if subscription.type_url == ENDPOINTS and self.rewarm:
            subscription.force |= {name for name in self.rewarm if subscription.wants(name)}
        available = snapshot.of(subscription.type_url)
        content = self.content(subscription, subscription.wanted(available))
        if content is None:
            subscription.urgent = False
            return None
        resources, removed = content
        self.note_clusters(subscription, resources)
        nonce, message = self.addressed(self.body(subscription, available.version, resources, removed, bodies))
        subscription.record(nonce, available.version, resources, removed)
        while len(subscription.pending) > MAX_PENDING:
            del subscription.pending[next(iter(subscription.pending))]
        names = tuple(resource.name for resource in resources)
        return Response(subscription.type_url, nonce, message, names, available.version)

    def note_clusters(self, subscription: Subscription, resources: Iterable[Resource]) -> None:
        """Remember which clusters will wait for endpoints, and which have just been given theirs."""
        if subscription.type_url == CLUSTER:
            self.rewarm &= subscription.sent.keys()
            self.rewarm |= {r.name for r in resources if subscription.sent.get(r.name) != r.version}
        elif subscription.type_url == ENDPOINTS:
            self.rewarm -= {r.name for r in resources}

    def addressed(self, body: Body) -> tuple[str, bytes]:
        """Nonce and message: the body's own, unless this stream may have used that nonce before (C10)."""
        if body.number > self.newest:
            self.newest = body.number
            return body.nonce, body.message
        self.repeats += 1
        nonce = f"{body.nonce}.{self.repeats}"
        return nonce, body.renamed(nonce)

    @abstractmethod
    def content(
        self, subscription: Subscription, wanted: dict[str, Resource]
    ) -> tuple[list[Resource], list[str]] | None:
        """Resources and removed names to send, or None for no response."""

    @abstractmethod
    def body(
        self,
        subscription: Subscription,
        version: str,
        resources: list[Resource],
        removed: list[str],
        bodies: Bodies,
    ) -> Body:
        """The encoded response."""

    # -- for people -------------------------------------------------------------------------------------

    def status(self, snapshot: Snapshot | None) -> tuple[TypeStatus, ...]:
        """How the client stands with each type it asked for."""
        return tuple(
            TypeStatus(
                type_url=type_url,
                sent_version=subscription.sent_version,
                acked_version=subscription.acked_version,
                in_sync=self.in_sync(subscription, snapshot),
                nack_message=subscription.nack_message,
                nack_names=subscription.nack_names,
                resources=sum(1 for version in subscription.sent.values() if version),
            )
            for type_url, subscription in self.subscriptions.items()
        )

    def in_sync(self, subscription: Subscription, snapshot: Snapshot | None) -> bool:
        """It has accepted all that it asked for and that exists."""
        if snapshot is None or subscription.awaiting or subscription.nack_message:
            return False
        return not subscription.stale(subscription.wanted(snapshot.of(subscription.type_url)))

    def follows(self, cluster: str) -> bool:
        """Whether the client balances over this cluster, so that it counts as one of its proxies."""
        subscription = self.subscriptions.get(ENDPOINTS)
        return subscription is not None and subscription.wants(cluster)


class SotwSession(Session[pb.DiscoveryRequest]):
    """State of the world: each request repeats all names, each response of some types lists everything."""

    mode = "sotw"

    def subscribe(self, subscription: Subscription, request: pb.DiscoveryRequest) -> None:
        """Take the request's names as the new subscription, unless it answers an older response (C15).

        A stale request is not needed: whatever it asked for is repeated by the request that answers the
        response that was sent last.
        """
        nonce = request.response_nonce
        if nonce and nonce != subscription.last_nonce and subscription.last_nonce:
            return
        limit_names(request.resource_names)
        names = set(request.resource_names)
        explicit = names - {WILDCARD}
        if names:
            wildcard = WILDCARD in names
        else:
            wildcard = not subscription.ever_named and subscription.type_url in FULL_STATE_TYPES
        added = explicit - subscription.names
        for name in subscription.names - explicit:
            subscription.forget(name)
        again = not nonce and subscription.answered
        if again:
            subscription.force |= explicit
        if added or again or wildcard != subscription.wildcard:
            subscription.urgent = True
        subscription.names, subscription.wildcard = explicit, wildcard
        subscription.ever_named = subscription.ever_named or bool(names)

    def content(
        self, subscription: Subscription, wanted: dict[str, Resource]
    ) -> tuple[list[Resource], list[str]] | None:
        """Everything, of types whose responses delete what they do not list; else only what changed."""
        stale = subscription.stale(wanted)
        if subscription.type_url not in FULL_STATE_TYPES:
            return (stale, []) if stale else None
        removed = [name for name, version in subscription.sent.items() if version and name not in wanted]
        if not stale and not removed:
            return None
        return list(wanted.values()), removed

    def body(
        self,
        subscription: Subscription,
        version: str,
        resources: list[Resource],
        removed: list[str],
        bodies: Bodies,
    ) -> Body:
        """A DiscoveryResponse."""
        del removed
        return bodies.sotw(subscription.type_url, version, resources)


class DeltaSession(Session[pb.DeltaDiscoveryRequest]):
    """Incremental: requests and responses name what changes."""

    mode = "delta"

    def subscribe(self, subscription: Subscription, request: pb.DeltaDiscoveryRequest) -> None:
        """Add and drop names, in that order (C43). Stale nonces matter for ACKs, not for names (C39)."""
        come, gone = request.resource_names_subscribe, request.resource_names_unsubscribe
        limit_names(come, already=len(subscription.names))
        first = not subscription.ever_named and not subscription.answered and not subscription.wildcard
        if first and not come and subscription.type_url in FULL_STATE_TYPES:
            subscription.wildcard = subscription.urgent = True
        for name in come:
            self.add(subscription, name)
        if first:
            limit_names(request.initial_resource_versions)
            for name, version in request.initial_resource_versions.items():
                if subscription.wants(name):
                    subscription.sent[name] = version
                    subscription.force.discard(name)
            subscription.answered = bool(request.initial_resource_versions)
        for name in gone:
            self.drop(subscription, name)

    def add(self, subscription: Subscription, name: str) -> None:
        """Ask for a name; asking again for one that it has means: send it again (C34)."""
        subscription.ever_named = subscription.urgent = True
        if name == WILDCARD:
            subscription.wildcard = True
            return
        if name in subscription.names or subscription.wildcard:
            subscription.force.add(name)
            if subscription.sent.get(name) == "":
                subscription.forget(name)
        subscription.names.add(name)

    def drop(self, subscription: Subscription, name: str) -> None:
        """No longer ask for a name; what it means depends on whether everything is asked for too (C35)."""
        if name == WILDCARD:
            subscription.wildcard = False
            for kept in [kept for kept in subscription.sent if kept not in subscription.names]:
                subscription.forget(kept)
        elif name in subscription.names:
            subscription.names.discard(name)
            subscription.forget(name)
            if subscription.wildcard:
                subscription.gone.add(name)
                subscription.urgent = True

    def content(
        self, subscription: Subscription, wanted: dict[str, Resource]
    ) -> tuple[list[Resource], list[str]] | None:
        """What changed, and what is no longer there or never was."""
        stale = subscription.stale(wanted)
        removed = {name for name, version in subscription.sent.items() if version and name not in wanted}
        removed |= {name for name in subscription.names if name not in wanted and name not in subscription.sent}
        removed |= subscription.gone - wanted.keys()
        if stale or removed:
            return stale, sorted(removed)
        return None if subscription.answered or not subscription.wildcard else ([], [])

    def body(
        self,
        subscription: Subscription,
        version: str,
        resources: list[Resource],
        removed: list[str],
        bodies: Bodies,
    ) -> Body:
        """A DeltaDiscoveryResponse."""
        return bodies.delta(subscription.type_url, version, resources, removed)


def limit_names(names: Iterable[str], already: int = 0) -> None:
    """Refuse what would cost memory without bound. Raises ProtocolError."""
    count = already
    for name in names:
        count += 1
        if count > MAX_NAMES:
            raise ProtocolError(f"more than {MAX_NAMES} resource names of one type", "RESOURCE_EXHAUSTED")
        if len(name) > MAX_NAME_CHARS:
            raise ProtocolError(f"a resource name is longer than {MAX_NAME_CHARS} characters")
