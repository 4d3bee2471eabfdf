"""`gpuxds check` shows the real Envoy what guards are told, too: few stand for many, and one at fault is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpuxds.cli.app import app
from gpuxds.fleet.endpoint import Endpoint, Fleet
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.snapshot import guards, static_guards
from gpuxds.snapshot.model import RUNTIME, Resource, Snapshot
from gpuxds.snapshot.priorities import script_lines
from gpuxds.snapshot.versions import resource
from gpuxds.wire import xds_pb2

run = CliRunner().invoke
real = pytest.mark.real("envoy")
POLICY = """\
version: 1
pools:
  - name: plain
    match: {prefix: /plain}
    endpoints: [{id: p, address: '10.0.0.1:80', gpu: {model: L4}}]
  - name: engine
    match: {prefix: /engine}
    guard: {queue: {timeout: 2s}}
    endpoints:
      - {id: x, address: '10.0.0.2:80', gpu: {model: L4}, capacity: 4}
      - {id: y, address: '10.0.0.3:80', gpu: {model: L4}, capacity: 9}
      - {id: z, address: '10.0.0.4:80', gpu: {model: L4}, capacity: 5}
  - name: wall
    match: {prefix: /wall}
    guard: {address: '::'}
    protocol: http2
    endpoints: [{id: named, address: 'gpu.internal:80', gpu: {model: L4}}]
  - name: later
    match: {prefix: /later}
    guard: {queue: {}}
    file_sd: {files: [none-yet-*.json]}
"""
UNGUARDED = POLICY.split("  - name: engine")[0]


def checked(folder: Path, text: str = POLICY) -> Any:
    path = folder / "policy.yaml"
    path.write_text(text)
    return run(app, ["check", str(path)])


@real
def test_a_good_policy_passes_with_its_guards_and_says_how_many_were_shown(tmp_path: Path) -> None:
    result = checked(tmp_path)
    assert result.exit_code == 0, result.output
    assert "accepts it: 4 clusters" in result.stdout
    assert "; guards: 4 shown, for 4 endpoints\n" in result.stdout


@real
def test_a_policy_without_guards_says_nothing_of_them(tmp_path: Path) -> None:
    result = checked(tmp_path, UNGUARDED)
    assert result.exit_code == 0, result.output
    assert "accepts it" in result.stdout
    assert "guards:" not in result.stdout


def no_number(_: int) -> Resource:
    message = xds_pb2.Runtime(name="guard")
    message.layer["limit"] = [1]
    return resource("guard", RUNTIME, message.SerializeToString())


@real
@pytest.mark.parametrize(
    ("function", "broken", "words"),
    [
        pytest.param("text_of", lambda _: "function (", "script load error", id="a script that does not compile"),
        pytest.param("limit", no_number, "Invalid runtime entry value for limit", id="a limit that is no number"),
        pytest.param(
            "internal_cluster",
            lambda _, made=guards.internal_cluster, **kind: made("nowhere", **kind),
            "unknown cluster 'wall'",
            id="a route to a cluster that is not there",
        ),
    ],
)
def test_what_only_envoy_refuses_of_a_guard_is_told_once_for_each_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, broken: Callable[..., Any], words: str
) -> None:
    monkeypatch.setattr(guards, function, broken)
    result = checked(tmp_path)
    assert result.exit_code == 1
    first, second, third = (line for line in result.stdout.splitlines() if words in line)
    assert "policy.yaml:8:12: pools[1].guard: Envoy refuses the guard of endpoint x (capacity 4): " in first
    assert "policy.yaml:15:12: pools[2].guard: Envoy refuses the guard of endpoint named " in second
    assert "policy.yaml:20:12: pools[3].guard: Envoy refuses the guard of endpoint any-of-later " in third
    assert "not usable, 3 errors" in result.output


@real
def test_only_the_guard_that_envoy_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        guards, "script_lines", lambda spec, most: ["end"] if most == 9 else script_lines(spec, most)
    )
    result = checked(tmp_path)
    assert result.exit_code == 1
    assert "pools[1].guard: Envoy refuses the guard of endpoint y (capacity 9): script load error" in result.stdout
    assert "not usable, 1 error\n" in result.output


def test_two_guards_stand_for_ten_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_text(POLICY, "t.yaml").policy
    like = endpoints(policy)[0]
    fleet = Fleet(tuple(replace(like, id=f"e{n}", pool="engine", capacity=n) for n in range(1, 10_001)))
    made = []

    def counted(policy: Policy, pool: PoolSpec, endpoint: Endpoint, peers: int) -> Snapshot:
        made.append((endpoint.pool, endpoint.capacity, peers))
        return guards.snapshot_of_guard(policy, pool, endpoint, peers)

    monkeypatch.setattr(static_guards, "snapshot_of_guard", counted)
    assert len(static_guards.samples(policy, fleet)) == 4
    assert made == [("engine", 1, 10_000), ("engine", 10_000, 10_000), ("wall", 1, 1), ("later", 1, 1)]
