"""Every line of conformance.md is named by a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def cited(path: Path) -> set[str]:
    """Ids that docstrings of tests in a file begin with or list."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found |= set(re.findall(r"\bC\d+\b", ast.get_docstring(node) or ""))
    return found


def test_every_line_of_the_list_has_a_test() -> None:
    listed = set(re.findall(r"^- (C\d+) ", (TESTS / "protocol" / "conformance.md").read_text(), re.MULTILINE))
    tested = {line for path in TESTS.rglob("test_*.py") for line in cited(path)}
    assert len(listed) > 50
    assert sorted(listed - tested) == []
    assert sorted(tested - listed) == [], "a test names a line that is not on the list"
