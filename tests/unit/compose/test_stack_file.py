"""What compose.yaml, the lock files and the configuration beside them promise, without a container."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from gpuxds import __version__
from gpuxds.policy.loader import load
from support.compose import COMPOSE, GPUS, PROXIES

FILE: dict[str, Any] = YAML(typ="safe").load(COMPOSE / "compose.yaml")
PROJECT: dict[str, Any] = tomllib.loads((COMPOSE.parent / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, list[Version]]:
    """Package -> versions a lock file pins, one per Python where they differ."""
    found: dict[str, list[Version]] = {}
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", (COMPOSE / name).read_text(), re.MULTILINE):
        found.setdefault(package, []).append(Version(version))
    return found


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("control-plane.lock", PROJECT["dependencies"]),
        ("proxy.lock", PROJECT["optional-dependencies"]["demo"]),
    ],
)
def test_lock_files_pin_what_the_project_asks_for(lock: str, requirements: list[str]) -> None:
    pinned = locked(lock)
    for requirement in map(Requirement, requirements):
        versions = pinned.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not locked: make lock"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement.name} {version}: make lock"


@pytest.mark.parametrize("lock", ["control-plane.lock", "proxy.lock"])
def test_every_pin_has_hashes(lock: str) -> None:
    text = (COMPOSE / lock).read_text()
    for pin in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in pin, pin


def test_images_are_tagged_with_this_version() -> None:
    assert set(re.findall(r"GPUXDS_VERSION:-([^}]+)", (COMPOSE / "compose.yaml").read_text())) == {__version__}


@pytest.mark.parametrize("service", list(FILE["services"]))
def test_every_service_is_hardened_limited_and_checked(service: str) -> None:
    found = FILE["services"][service]
    assert found["restart"] == "unless-stopped"
    assert found["healthcheck"]["test"]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["mem_limit"]
    assert found["cpus"]
    assert found["pids_limit"]
    assert "privileged" not in found


def test_trust_zones_hold_whom_they_should() -> None:
    zones = {name: set(service["networks"]) for name, service in FILE["services"].items()}
    assert {name for name, found in zones.items() if "clients" in found} == set(PROXIES)
    assert {name for name, found in zones.items() if "mesh" in found} == {"control-plane", *PROXIES, *GPUS}
    assert {name for name, found in zones.items() if "metrics" in found} == {
        "control-plane", "prometheus", "grafana", *PROXIES,
    }  # fmt: skip


def test_prometheus_asks_names_that_exist_in_the_metrics_network() -> None:
    config = YAML(typ="safe").load(COMPOSE / "prometheus" / "prometheus.yaml")
    targets = {
        target.rpartition(":")[0]
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    aliases = {
        alias
        for service in FILE["services"].values()
        if isinstance(service["networks"], dict)
        for alias in (service["networks"].get("metrics") or {}).get("aliases", [])
    }
    assert targets == aliases


def test_the_policy_names_the_fake_servers_and_passes_its_own_check() -> None:
    loaded = load(COMPOSE / "policy.yaml")
    assert loaded.warnings == ()
    (pool,) = loaded.policy.pools
    assert [endpoint.id for endpoint in pool.endpoints] == list(GPUS)
    assert all(endpoint.address == f"{endpoint.id}:8000" for endpoint in pool.endpoints)
    assert loaded.policy.listener.access_log is False


def test_nothing_of_the_working_tree_but_sources_is_sent_to_the_image_build() -> None:
    ignored = (COMPOSE.parent / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for line in ignored:
        if line.startswith("!") and "*" not in line:
            assert Path(COMPOSE.parent, line[1:]).exists(), line
