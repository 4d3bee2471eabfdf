"""The examples of `policies/examples/` on fake servers: the file as it stands, with other addresses and ports."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from gpuxds.assets import asset
from support.stack import Stack


def example(name: str) -> dict[str, Any]:
    """The document of an example."""
    document: dict[str, Any] = YAML(typ="safe").load(asset("policies", "examples", f"{name}.yaml").read_text())
    return document


def fleet_of(document: dict[str, Any]) -> dict[str, str]:
    """Id -> GPU model of its endpoints, for `stack`."""
    return {found["id"]: found["gpu"]["model"] for pool in document["pools"] for found in pool["endpoints"]}


def moved(document: dict[str, Any], running: Stack) -> dict[str, Any]:
    """The same policy for the servers of a running stack."""
    for pool in document["pools"]:
        for found in pool["endpoints"]:
            found["address"] = f"127.0.0.1:{running.ports[found['id']]}"
    listener = {"address": "127.0.0.1", "port": running.listener_port, "access_log": False}
    return {**document, "listener": {**document.get("listener", {}), **listener}}
