"""Reads YAML keeping the place of every node, so that each problem can name its line and column.

ruamel.yaml's round-trip loader knows positions but gives its own scalar types; `plain` turns them into
Python's, and `place` finds a path's line and column again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gpuxds.errors import PolicyError, Problem

Path = tuple[str | int, ...]


def read(text: str, file: str) -> CommentedMap:
    """The document as a mapping with positions. Raises PolicyError."""
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = " ".join(str(error.problem or error.context).split())
        raise PolicyError((Problem(file, line, column, "", f"not YAML: {what}"),)) from error
    except RecursionError as error:
        raise PolicyError((Problem(file, 1, 1, "", "nested too deeply"),)) from error
    except YAMLError as error:
        what = " ".join(str(error).split())
        raise PolicyError((Problem(file, 1, 1, "", f"not YAML: {what}"),)) from error
    if document is None:
        raise PolicyError((Problem(file, 1, 1, "", "the file is empty; it needs `version: 1` and `pools`"),))
    if not isinstance(document, CommentedMap):
        kind = "a list" if isinstance(document, CommentedSeq) else "a single value"
        raise PolicyError((Problem(file, 1, 1, "", f"the file is {kind}; it must be a mapping with `version: 1`"),))
    return document


def plain(node: Any) -> Any:
    """The same document in Python's own types."""
    if isinstance(node, CommentedMap):
        return {plain(key): plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def place(document: CommentedMap, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
    """Line and column (from 1) of the value at `path`, or of its key; the nearest known parent otherwise."""
    node: Any = document
    found = (1, 1)
    for position, part in enumerate(path):
        last = position == len(path) - 1
        if isinstance(node, CommentedMap) and part in node:
            if part not in node.lc.data:  # inherited through a merge key: the mapping itself is the nearest place
                node = node[part]
                continue
            line, column = node.lc.key(part) if key and last else node.lc.value(part)
            if not last and isinstance(node[part], CommentedMap | CommentedSeq):
                line, column = node.lc.key(part)
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line, column = node.lc.item(part)
        else:
            break
        found = (line + 1, column + 1)
        node = node[part]
    return found


def dotted(path: Sequence[str | int]) -> str:
    """`pools[0].endpoints[2].capacity`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
