"""How a command ends: its exit status, and its last words when it failed.

Scripts tell by the status whether to try again (3), to mend the command (2) or the key (4), or to look at what was
refused (1). With --json the last words are a problem document on standard error, the server's own where it has one.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum

from gpuxds.cli.layout import wrapped
from gpuxds.errors import GpuxdsError, Misuse, Refused, ServerAway

NOT_READY = "NotReady"
"""Title of the problem with which a server answers until its first decision."""


class Status(IntEnum):
    """What each exit status means."""

    DONE = 0
    FAILED = 1
    MISUSE = 2
    AWAY = 3
    DENIED = 4
    INTERRUPTED = 130


MEANINGS = {
    Status.DONE: "done",
    Status.FAILED: "failed, or refused by the server",
    Status.MISUSE: "the command line is wrong",
    Status.AWAY: "no gpuxds server answers, or it is not ready yet: try again",
    Status.DENIED: "the API key is missing, or may not do this",
    Status.INTERRUPTED: "interrupted by Ctrl-C",
}
EPILOG = "Exit status: " + "; ".join(f"{status.value} {meaning}" for status, meaning in MEANINGS.items()) + "."


def status_of(error: GpuxdsError) -> Status:
    """The exit status that tells of an error."""
    match error:
        case Misuse():
            return Status.MISUSE
        case ServerAway():
            return Status.AWAY
        case Refused(status=401 | 403):
            return Status.DENIED
        case Refused(problem={"title": title}) if title == NOT_READY:
            return Status.AWAY
        case _:
            return Status.FAILED


def told(error: GpuxdsError, *, as_json: bool) -> str:
    """The last words of a command that failed; on a terminal no word is broken."""
    if not as_json:
        return "\n".join(wrapped(line, sys.stderr) for line in f"gpuxds: {error}".splitlines())
    if isinstance(error, Refused):
        return json.dumps(error.problem)
    return json.dumps({"type": "about:blank", "title": type(error).__name__, "detail": str(error)})
