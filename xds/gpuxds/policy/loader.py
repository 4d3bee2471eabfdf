"""Reads a policy file, or says everything that is wrong with it at once.

YAML → plain values → pydantic → checks between fields. Each problem carries file, line, column and dotted
path, because the reader is on call and has the file open.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gpuxds.errors import PolicyError, Problem
from gpuxds.files import read_text
from gpuxds.policy.checks import findings
from gpuxds.policy.model import EngineSignals, Policy
from gpuxds.policy.positions import dotted, place, plain, read
from gpuxds.policy.wording import sentence, without_tags


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy that can be used."""

    policy: Policy
    warnings: tuple[Problem, ...]
    digest: str
    """Hash of the file's text: two servers with the same digest decide alike."""
    base_dir: Path
    """What relative paths in the policy are relative to."""


def load(path: Path) -> Loaded:
    """Read a policy file. Raises PolicyError with every problem found."""
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise PolicyError((Problem(str(path), 0, 0, "", f"not UTF-8 at byte {error.start}"),)) from error
    except OSError as error:
        raise PolicyError((Problem(str(path), 0, 0, "", f"cannot be read: {error.strerror}"),)) from error
    return load_text(text, str(path))


def load_text(text: str, file: str) -> Loaded:
    """The policy in `text`; `file` names it in problems. Raises PolicyError with every problem found."""
    document = read(text, file)
    try:
        policy = Policy.model_validate(plain(document))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            path = without_tags(item["loc"])
            line, column = place(document, path, key=item["type"] == "extra_forbidden")
            problems.append(Problem(file, line, column, dotted(path), sentence(item, Policy)))
        raise PolicyError(tuple(sorted(problems, key=lambda p: (p.line, p.column)))) from error
    found = [
        Problem(file, *place(document, finding.path), dotted(finding.path), finding.message, finding.severity)
        for finding in findings(policy)
    ]
    found.sort(key=lambda problem: (problem.line, problem.column))
    if any(problem.severity == "error" for problem in found):
        raise PolicyError(tuple(found))
    base_dir = Path(file).absolute().parent
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Loaded(with_paths(policy, base_dir), tuple(found), digest, base_dir)


def with_paths(policy: Policy, base_dir: Path) -> Policy:
    """The policy with its files relative to where it stands, not to where the server was started."""

    def placed(section: EngineSignals) -> EngineSignals:
        files = {name: getattr(section, name) for name in ("ca_file", "bearer_token_file")}
        return section.model_copy(update={name: str(base_dir / path) for name, path in files.items() if path})

    signals = policy.signals
    moved = {"engine": placed(signals.engine), "gpu": placed(signals.gpu)}
    return policy.model_copy(update={"signals": signals.model_copy(update=moved)})
