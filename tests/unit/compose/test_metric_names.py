"""Alerts and dashboard ask for metrics that exist: a renamed metric must not silence an alert for good.

Our own names are held against the page of a real engine, with every family it can show. Envoy's names are held
against live Envoys by `tests/compose`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from ruamel.yaml import YAML

from gpuxds.admin.exposition import DecisionCollector
from gpuxds.discovery.credentials import Credentials
from gpuxds.discovery.server import AdsServer
from gpuxds.engine.loop import Engine, Settings
from support.compose import COMPOSE
from support.promql import dashboard_queries, metric_names, rule_queries

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that has decided nothing; its families are all there."""
    policy = tmp_path / "policy.yaml"
    policy.write_text((COMPOSE / "policy.yaml").read_text())
    server = AdsServer("127.0.0.1:0", credentials=Credentials(), group_of=lambda _: "all", clock=time.time)
    return Engine(Settings(policy, tmp_path / "state.json"), server, time.time)


def families(engine: Engine) -> Iterator[Metric]:
    """Every family of /metrics, those without a sample included."""
    yield from engine.metrics.registry.collect()
    yield from DecisionCollector(engine).collect()


def our_names(engine: Engine) -> set[str]:
    """Names as they stand in queries."""
    return {family.name + suffix for family in families(engine) for suffix in SUFFIXES[family.type]}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("up == 0", {"up"}),
        ('sum by (pool) (rate(a_total{b="c"}[5m])) / on (x, y) group_left (z) d', {"a_total", "d"}),
        ("histogram_quantile(0.9, sum by (le) (rate(h_bucket[1m])))", {"h_bucket"}),
        ('a unless a offset 10m or b{c=~"d|e", f="g(h)"}', {"a", "b"}),
        ("a and ignoring (state) b", {"a", "b"}),
    ],
)
def test_metric_names_are_found_in_queries(query: str, names: set[str]) -> None:
    assert metric_names(query) == names


@pytest.mark.parametrize("queries", [rule_queries, dashboard_queries])
def test_every_query_names_metrics_that_exist(queries: Any, engine: Engine) -> None:
    known = our_names(engine) | {"up", "ALERTS"}
    asked = {name for query in queries() for name in metric_names(query) if not name.startswith("envoy_")}
    assert asked - known == set()
    assert len(asked) >= 5, "no queries were found"


def test_every_panel_has_a_query_and_the_provisioned_source() -> None:
    dashboard = json.loads((COMPOSE / "grafana/dashboards/gpuxds.json").read_text())
    source = YAML(typ="safe").load(COMPOSE / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}


def test_every_alert_says_what_it_means_and_has_a_test() -> None:
    rules = YAML(typ="safe").load(COMPOSE / "prometheus/rules.yaml")["groups"][0]["rules"]
    tested = (COMPOSE / "prometheus/rules_test.yaml").read_text()
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.search(rf"\b{rule['alert']}\b", tested), f"{rule['alert']} has no test"
