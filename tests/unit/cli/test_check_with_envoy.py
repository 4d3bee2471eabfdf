"""`gpuxds check` shows what a policy becomes to the real Envoy, and says whose field it is that Envoy refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpuxds.assets import asset, envoy_binary
from gpuxds.cli import check as checking
from gpuxds.cli.app import app
from gpuxds.errors import ServerAway
from gpuxds.policy.loader import load
from gpuxds.snapshot import lua
from gpuxds.snapshot.model import CLUSTER, EMPTY
from gpuxds.snapshot.resources import config
from gpuxds.snapshot.static import static_bootstrap

run = CliRunner().invoke
real = pytest.mark.real("envoy")
POLICY = """\
version: 1
pools:
  - name: a
    match: {prefix: /a}
    endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]
  - name: b
    match: {prefix: /b}
    endpoints: [{id: y, address: '10.0.0.2:80', gpu: {model: L4}}]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "policy.yaml"
    path.write_text(text)
    return str(path)


@real
def test_envoy_accepts_the_default_policy_and_every_example() -> None:
    files = [asset("policies", "default.yaml"), *sorted(asset("policies", "examples").glob("*.yaml"))]
    result = run(app, ["check", *map(str, files)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("accepts it: ") == len(files)


@real
def test_what_only_envoy_refuses_is_named_with_the_line_it_stems_from(tmp_path: Path) -> None:
    text = POLICY.replace("{prefix: /a}", '{prefix: /a, rewrite: "/\\n"}').replace(
        "{prefix: /b}", '{prefix: /b}\n    strategy: {name: consistent_hash, header: "x\\nid"}'
    )
    result = run(app, ["check", written(tmp_path, text)])
    assert result.exit_code == 1
    first, second = (line for line in result.stdout.splitlines() if "Envoy refuses it" in line)
    assert "policy.yaml:4:34: pools[0].match.rewrite: Envoy refuses it: Proto constraint" in first
    assert "PrefixRewrite: value does not match regex pattern" in first
    assert "policy.yaml:8:15: pools[1].strategy: Envoy refuses it" in second
    assert "not usable, 2 errors" in result.output


@real
def test_a_script_that_envoy_cannot_load_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lua, "text_of", lambda _: "function (")
    result = run(app, ["check", written(tmp_path, POLICY.replace("/b}", "/b}\n    hedging: {after: 1s}"))])
    assert result.exit_code == 1
    assert "pools[1]: Envoy refuses it" in result.stdout


@real
def test_a_route_to_a_cluster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    sets = {**config(load(Path(written(tmp_path, POLICY))).policy, None, {}), CLUSTER: EMPTY}
    bootstrap = tmp_path / "b.pb"
    bootstrap.write_bytes(static_bootstrap(sets))
    found = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", bootstrap], capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    assert "unknown cluster 'a'" in found.stderr


def test_without_a_binary_a_good_policy_is_good_and_check_says_what_it_did_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVOY", "/nowhere/envoy")
    result = run(app, ["check", written(tmp_path, POLICY)])
    assert result.exit_code == 0
    assert "not validated by Envoy: no Envoy binary: $ENVOY names /nowhere/envoy" in result.stdout
    silent = run(app, ["check", "--no-envoy", written(tmp_path, POLICY)])
    assert silent.exit_code == 0
    assert "Envoy" not in silent.stdout


def test_what_is_overridden_in_a_running_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(admin: str, path: str) -> dict[str, Any]:
        assert (admin, path) == ("cp:18001", "/api/v1/loadbalancer/strategy")
        return {
            "pools": [
                {"pool": "a", "strategy": {"name": "round_robin"}, "source": "override"},
                {"pool": "b", "strategy": {"name": "gpu_aware"}, "source": "policy"},
            ]
        }

    monkeypatch.setattr(checking, "call", answer)
    path = written(tmp_path, POLICY)
    said = run(app, ["check", "--no-envoy", "--admin", "cp:18001", path]).stdout
    assert "pool a: 1 endpoint, strategy gpu_aware (overridden in the running server: round_robin)" in said
    assert "pool b: 1 endpoint, strategy gpu_aware\n" in said
    assert "overridden in" not in run(app, ["check", "--no-envoy", path]).stdout


def test_a_server_that_does_not_answer_is_no_reason_to_refuse_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(*_: str) -> dict[str, Any]:
        raise ServerAway("no gpuxds server answers")

    monkeypatch.setattr(checking, "call", silence)
    monkeypatch.setenv("GPUXDS_ADMIN", "cp:18001")
    result = run(app, ["check", "--no-envoy", written(tmp_path, POLICY)])
    assert result.exit_code == 0
    assert "overrides are not known: no gpuxds server answers" in result.output
