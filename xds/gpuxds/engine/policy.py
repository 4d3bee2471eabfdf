"""The policy in force, and what became of the last attempt to change it.

A file that cannot be used changes nothing: the last good policy stays and the problems are kept for the log,
the metrics and the API. The text of the last good policy is also saved with the state, so that a restart on
top of a broken file still has a policy to serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpuxds.errors import PolicyError, Problem
from gpuxds.files import read_text
from gpuxds.policy.diff import changes
from gpuxds.policy.loader import Loaded, load, load_text
from gpuxds.snapshot.resources import config


@dataclass(frozen=True, slots=True)
class Reload:
    """What one attempt did."""

    at: float
    changed: tuple[str, ...]
    """Sentences on what is different now; empty when nothing is."""
    problems: tuple[Problem, ...]
    """Errors that kept the file out, or warnings of the file that is in."""
    ok: bool


def usable(path: Path) -> Loaded:
    """A policy that also becomes Envoy's configuration. Raises PolicyError, whatever it is that stands in the way.

    A policy that trips a defect of ours must not end a server that has a good one, so everything is caught.
    """
    try:
        loaded = load(path)
        config(loaded.policy, None, {})
    except PolicyError:
        raise
    except Exception as error:
        what = f"cannot be used ({type(error).__name__}: {' '.join(str(error).split())}); please report this"
        raise PolicyError((Problem(str(path), 0, 0, "", what),)) from error
    return loaded


class PolicyHolder:
    """Holds the policy in force. Reads files; decides nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loaded: Loaded | None = None
        self.text = ""
        self.last = Reload(0.0, (), (), ok=False)
        self.failures = 0
        self.tried = ""
        """Content of the last attempt, so that an unchanged broken file is reported once."""

    def start(self, last_good_text: str, now: float) -> Reload:
        """Load the file, or else the last good text. Raises PolicyError when neither can be used."""
        outcome = self.reload(now)
        if outcome is None or outcome.ok:
            return self.last
        if not last_good_text:
            raise PolicyError(outcome.problems)
        self.loaded = load_text(last_good_text, str(self.path))
        self.text = last_good_text
        return outcome

    def reload(self, now: float) -> Reload | None:
        """Read the file again; None when its content is the one tried last."""
        try:
            text = read_text(self.path)
        except (OSError, UnicodeDecodeError) as error:
            text = f"unreadable: {error}"
        if text == self.tried:
            return None
        self.tried = text
        try:
            loaded = usable(self.path)
        except PolicyError as error:
            self.failures += 1
            self.last = Reload(now, (), error.problems, ok=False)
            return self.last
        before = self.loaded.policy if self.loaded else None
        self.last = Reload(now, changes(before, loaded.policy), loaded.warnings, ok=True)
        self.loaded, self.text = loaded, text
        return self.last

    def take_back(self, before: tuple[Loaded | None, str], error: Exception, now: float) -> Reload:
        """A policy that was loaded could not be put in force after all: the one before it is current again."""
        self.loaded, self.text = before
        self.failures += 1
        what = (
            f"cannot be put in force ({type(error).__name__}: {' '.join(str(error).split())}); please report this"
        )
        self.last = Reload(now, (), (Problem(str(self.path), 0, 0, "", what),), ok=False)
        return self.last

    @property
    def current(self) -> Loaded:
        """The policy in force; `start` has been called."""
        assert self.loaded is not None
        return self.loaded
