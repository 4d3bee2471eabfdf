"""The queries that ship with the compose stack, and the metrics they name.

No parser of PromQL: what is left of a query without strings, selectors, ranges, label lists, functions and
keywords is metric names.
"""

from __future__ import annotations

import json
import re

from ruamel.yaml import YAML

from support.compose import COMPOSE

NOT_NAMES = re.compile(
    r"""
      "[^"]*" | \{[^}]*\} | \[[^\]]*\]                                   # strings, selectors, ranges
    | \b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)      # label lists
    | \boffset\s+\w+                                                     # offsets
    | \b[a-z_0-9]+\s*(?=\()                                              # functions
    | \b(sum|min|max|count|by|and|or|unless|group_left|group_right|bool)\b
    """,
    re.VERBOSE,
)
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def metric_names(query: str) -> set[str]:
    """Metrics a query asks for."""
    without_strings = re.sub(r'"[^"]*"', '""', query)
    return set(NAME.findall(NOT_NAMES.sub(" ", without_strings)))


def rule_queries() -> list[str]:
    """Expressions of the alert rules."""
    groups = YAML(typ="safe").load(COMPOSE / "prometheus" / "rules.yaml")["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """Expressions of every panel and annotation."""
    dashboard = json.loads((COMPOSE / "grafana" / "dashboards" / "gpuxds.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return panels + [entry["expr"] for entry in dashboard["annotations"]["list"]]
