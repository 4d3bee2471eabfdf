"""What one stream wants of one resource type, and what it was told.

Nothing is queued: what to send next is the difference between the snapshot in force and what was sent. A
slow stream therefore skips to the latest state, its memory is bounded by its own subscription, and N changes
while a response is un-acknowledged become one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuxds.snapshot.model import CLUSTER, LISTENER, Resource, ResourceSet

WILDCARD = "*"
FULL_STATE_TYPES = (CLUSTER, LISTENER)
"""State of the world: responses of these types list everything; what is not listed is deleted. They are also
the types for which naming nothing means everything."""


@dataclass(slots=True)
class Subscription:
    """State per (stream, type)."""

    type_url: str
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    """Names asked for one by one, without `*`."""
    ever_named: bool = False
    """A name was given once, so an empty list no longer means everything."""
    sent: dict[str, str] = field(default_factory=dict)
    """Name -> version last sent; empty when the client was told that there is no such resource."""
    force: set[str] = field(default_factory=set)
    """Names to be sent even if their version was sent before."""
    gone: set[str] = field(default_factory=set)
    """Names to be reported as removed although nothing of ours was."""
    answered: bool = False
    """A first response was sent, or the client proved to be up to date."""
    awaiting: str = ""
    """Nonce of the response that is not yet acknowledged; empty when there is none."""
    urgent: bool = False
    """The client asked for something new; it is answered even while a response is un-acknowledged."""
    last_nonce: str = ""
    pending: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Nonce -> (version of the set, names) of responses that are not yet acknowledged."""
    sent_version: str = ""
    acked_version: str = ""
    nack_message: str = ""
    nack_names: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the client asked for this name, by itself or as part of everything."""
        return self.wildcard or name in self.names

    def wanted(self, available: ResourceSet) -> dict[str, Resource]:
        """What it asked for and what exists."""
        if self.wildcard:
            return {
                name: found
                for name, found in available.resources.items()
                if not found.on_request_only or name in self.names
            }
        return {name: available.resources[name] for name in sorted(self.names) if name in available.resources}

    def stale(self, wanted: dict[str, Resource]) -> list[Resource]:
        """Of those, the ones the client does not have in this version, or must be sent again."""
        sent, force = self.sent, self.force
        return [found for name, found in wanted.items() if name in force or sent.get(name) != found.version]

    def forget(self, name: str) -> None:
        """It no longer asks for this name: a later wish for it is answered afresh."""
        self.sent.pop(name, None)
        self.force.discard(name)

    def record(self, nonce: str, version: str, resources: list[Resource], removed: list[str]) -> None:
        """A response is about to be written; noted before, so that a fast ACK finds its nonce (C17)."""
        for resource in resources:
            self.sent[resource.name] = resource.version
            self.force.discard(resource.name)
        for name in removed:
            if name in self.names:
                self.sent[name] = ""
            else:
                self.sent.pop(name, None)
        self.gone.clear()
        self.pending[nonce] = (version, tuple(r.name for r in resources))
        self.awaiting = self.last_nonce = nonce
        self.sent_version = version
        self.urgent, self.answered = False, True
