"""Every exception gpuxds raises on purpose, in one tree.

    GpuxdsError
    ├── PolicyError        a policy cannot be used; carries every problem found, each with its place
    ├── FleetError         a source of endpoints cannot be read
    ├── SignalError        a metric page cannot be used
    ├── SnapshotError      resources contradict each other; names them; nothing was published
    ├── ProtocolError      an xDS client broke the protocol; carries the gRPC status to close with
    ├── DrainRefused       a drain would leave a pool without a serving endpoint
    ├── UnknownEndpoint    no endpoint has that id
    ├── UnknownPool        no pool has that name
    ├── UnknownReservation no reservation has that id or name
    ├── NoCapacity         nothing that was asked for can be had now; says why
    ├── NotReady           nothing was decided yet
    ├── Unusable           what was asked for cannot be used
    ├── Conflict           something else has that name, or it is declared elsewhere
    ├── StateError         persisted state cannot be read
    ├── Misuse             a command was given what contradicts itself or cannot be read
    ├── ServerAway         no gpuxds server answers where a command asks
    ├── Refused            a server refused what a command asked; carries its problem document
    └── EnvironmentProblem a part is missing or a port is taken; the text says how to mend it

Errors of libraries are translated at the edge where they occur, so that a caller needs this file only.
Messages carry both sides of a mismatch: what was found, and what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class GpuxdsError(Exception):
    """Root of everything raised on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, with its place (1-based; 0 when it has none)."""

    file: str
    line: int
    column: int
    path: str
    message: str
    severity: str = "error"
    """`error` stops the policy from being used, `warning` does not."""

    def __str__(self) -> str:
        word = "warning: " if self.severity == "warning" else ""
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {where}{word}{self.message}"


class PolicyError(GpuxdsError):
    """A policy cannot be used. `problems` holds every error and warning found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class FleetError(GpuxdsError):
    """A source of endpoints cannot be read; what it gave before stays in force."""


class SignalError(GpuxdsError):
    """A metric page cannot be used."""


class SnapshotError(GpuxdsError):
    """Resources contradict each other; the message names them and nothing was published."""


class ProtocolError(GpuxdsError):
    """An xDS client broke the protocol; the stream is closed with `status`."""

    def __init__(self, message: str, status: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.status = status


class DrainRefused(GpuxdsError):
    """A drain would leave a pool without a serving endpoint; `force` overrides."""


class UnknownEndpoint(GpuxdsError):
    """No endpoint has that id; the message lists near misses."""


class UnknownPool(GpuxdsError):
    """No pool has that name; the message lists those there are."""


class UnknownReservation(GpuxdsError):
    """No reservation has that id or name: it ended, or never was."""


class NoCapacity(GpuxdsError):
    """Nothing that was asked for can be had now; the message gives the reason for each endpoint."""


class NotReady(GpuxdsError):
    """Nothing was decided yet: the server has just started."""


class Unusable(GpuxdsError):
    """What was asked for cannot be used; the message names the field and the remedy."""


class Conflict(GpuxdsError):
    """Something else has that name or address, or it can only be changed elsewhere."""


class StateError(GpuxdsError):
    """Persisted state cannot be read; the server starts without it and says so."""


class Misuse(GpuxdsError):
    """A command was given what contradicts itself or cannot be read; the message says what to write."""


class ServerAway(GpuxdsError):
    """No gpuxds server answers where a command asks, or it is still starting: worth another try."""


class Refused(GpuxdsError):
    """A server refused what a command asked. `problem` is its problem document (RFC 9457)."""

    def __init__(self, message: str, problem: dict[str, Any]) -> None:
        super().__init__(message)
        self.problem = problem

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self.problem["status"])


class EnvironmentProblem(GpuxdsError):
    """A part is missing or a port is taken; the message says how to mend it."""
