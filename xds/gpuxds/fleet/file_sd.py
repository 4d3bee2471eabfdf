"""Prometheus file_sd: files of target groups, in JSON or YAML, as other tools already write them.

A group is `{targets: [host:port, ...], labels: {...}}`. What the labels mean is decided in `policy.build`;
here only the form is checked, so that a half-written file is refused as a whole and the last good one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gpuxds.errors import FleetError


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Targets that share labels."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]
    line: int
    """Where the group begins in its file, from 1."""


def parse(text: str, file: str) -> tuple[TargetGroup, ...]:
    """Target groups of one file; JSON is read as the YAML it is. Raises FleetError with file and line."""
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise FleetError(f"{file}:{line}: neither JSON nor YAML: {error.problem}") from error
    except RecursionError as error:
        raise FleetError(f"{file}:1: nested too deeply") from error
    except YAMLError as error:
        raise FleetError(f"{file}:1: neither JSON nor YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, CommentedSeq):
        raise FleetError(f"{file}:1: expected a list of target groups, each with targets and labels")
    return tuple(group(entry, file, document.lc.item(index)[0] + 1) for index, entry in enumerate(document))


def group(entry: object, file: str, line: int) -> TargetGroup:
    """One target group. Raises FleetError."""
    if not isinstance(entry, CommentedMap) or not isinstance(entry.get("targets"), CommentedSeq):
        raise FleetError(f"{file}:{line}: a target group needs `targets: [host:port, ...]`")
    labels = entry.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise FleetError(f"{file}:{line}: `labels` must be a mapping of names to values")
    if not all(isinstance(target, str) for target in entry["targets"]):
        raise FleetError(f"{file}:{line}: every target must be a string, host:port")
    texts = {str(name): str(value) for name, value in labels.items()}
    return TargetGroup(tuple(str(target) for target in entry["targets"]), texts, line)
