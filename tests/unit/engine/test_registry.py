"""Registrations beside other sources, and over restarts."""

from __future__ import annotations

import json

import pytest

from gpuxds.engine.registry import Registry
from gpuxds.errors import Conflict, UnknownEndpoint
from gpuxds.fleet.endpoint import Endpoint, Fleet, Gpu, MetricsTargets
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import EndpointSpec

POLICY = load_text(
    "version: 1\npools: [{name: p, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]\n", "p.yaml"
).policy
SPEC = EndpointSpec.model_validate({"id": "r", "address": "10.0.0.2:80", "gpu": {"model": "L4"}})


def registered() -> Registry:
    registry = Registry()
    registry.register(POLICY, Fleet(), "p", SPEC)
    return registry


def test_an_id_that_a_file_has_taken_over_belongs_to_the_file() -> None:
    other = Endpoint(
        "r", "p", "10.0.0.9", 80, Gpu("L4", 24), 10, MetricsTargets("http://x"), source="file_sd:/t.json"
    )
    registry = registered()
    assert registry.owns(Fleet(), "r")
    assert not registry.owns(Fleet((other,)), "r")
    with pytest.raises(Conflict, match="declared in file_sd:/t.json"):
        registry.require(Fleet((other,)), "r")
    with pytest.raises(UnknownEndpoint, match="known: r"):
        registry.require(Fleet(), "nobody")


def test_a_registry_survives_json_with_what_was_leaving() -> None:
    registry = registered()
    registry.leaving.add("r")
    again = Registry.restore(json.loads(json.dumps(registry.dump())))
    assert again == registry
    assert [endpoint.source for endpoint in again.endpoints(POLICY)] == ["api"]
    assert Registry.restore({}) == Registry()
