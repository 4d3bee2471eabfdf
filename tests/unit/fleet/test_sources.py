"""Where endpoints come from, and what happens when a source says nonsense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuxds.engine.sources import Sources
from gpuxds.errors import FleetError
from gpuxds.fleet.endpoint import Endpoint, Fleet, Gpu, MetricsTargets
from gpuxds.fleet.file_sd import parse
from gpuxds.fleet.roster import merge, resolved
from gpuxds.policy.build import split_address
from gpuxds.policy.loader import Loaded, load_text


def endpoint(name: str, host: str = "10.0.0.1", port: int = 80, ip: str | None = None) -> Endpoint:
    return Endpoint(name, "p", host, port, Gpu("L4", 24), 10, MetricsTargets("http://x"), ip=ip)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[fd00::1]:8000", "fd00::1", 8000),
        ("gpu-1.example:9000", "gpu-1.example", 9000),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)


def test_file_sd_is_read_as_json_and_as_yaml() -> None:
    for text in (
        '[{"targets": ["a:1", "b:2"], "labels": {"zone": "z"}}]',
        "- targets: [a:1, b:2]\n  labels: {zone: z}\n",
    ):
        (group,) = parse(text, "f")
        assert group.targets == ("a:1", "b:2")
        assert group.labels == {"zone": "z"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{", "f:1"), ("{}", "expected a list"), ("- labels: {}\n", "needs `targets"),
        ("- targets: [1]\n", "string"), ("- targets: ['a:1']\n- nonsense\n", "f:2"),
    ],
)  # fmt: skip
def test_file_sd_that_is_wrong_is_refused_with_file_and_line(text: str, words: str) -> None:
    with pytest.raises(FleetError, match="^f:") as refused:
        parse(text, "f")
    assert words in str(refused.value)


def test_of_two_with_one_id_or_address_the_first_stays_and_the_other_is_reported() -> None:
    fleet, problems = merge([[endpoint("a")], [endpoint("a", port=81), endpoint("b"), endpoint("c", port=82)]])
    assert list(fleet.by_id) == ["a", "c"]
    assert len(problems) == 2
    assert "has the address of a" in problems[-1].message


def test_an_address_moves_only_when_the_name_no_longer_has_it() -> None:
    fleet = Fleet((endpoint("a", host="gpu.example"),))
    first = resolved(fleet, {"gpu.example": ("10.0.0.2", "10.0.0.1", "fd00::1")})
    assert first.by_id["a"].ip == "10.0.0.1"
    assert resolved(first, {"gpu.example": ("10.0.0.9", "10.0.0.1")}).by_id["a"].ip == "10.0.0.1"
    assert resolved(first, {"gpu.example": ("10.0.0.9",)}).by_id["a"].ip == "10.0.0.9"
    assert resolved(first, {}).by_id["a"].ip == "10.0.0.1", "a name server that is down takes nobody out"


def policy_with_files(folder: Path) -> Loaded:
    text = """
version: 1
pools:
  - name: p
    endpoints: [{id: own, address: '10.0.0.1:80', gpu: {model: L4}}]
    file_sd: {files: ['t/*.yaml'], gpu: {model: H100-80}}
"""
    return load_text(text, str(folder / "policy.yaml"))


def test_labels_say_what_a_target_is_and_a_broken_file_keeps_its_last_good_targets(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    file = tmp_path / "t" / "one.yaml"
    file.write_text(
        "- targets: ['10.0.0.2:80', '[fd00::2]:80']\n  labels: {gpu_model: A100-40, capacity: '50', zone: z1}\n"
    )
    sources, loaded = Sources(), policy_with_files(tmp_path)
    fleet = sources.build(loaded, Fleet())
    assert list(sources.problems) == []
    found = {e.id: e for e in fleet.endpoints}
    assert len(found) == 3
    new = next(e for e in found.values() if e.ip == "10.0.0.2")
    assert (new.gpu.model, new.capacity, new.labels["zone"]) == ("A100-40", 50, "z1")
    assert any(e.ip == "fd00::2" for e in found.values())
    file.write_text("- targets: [")
    again = sources.build(loaded, fleet)
    assert again == fleet
    assert "its last good targets stay in force" in sources.problems[0].message
    file.unlink()
    assert set(sources.build(loaded, fleet).by_id) == {"own"}


def test_a_target_with_a_wrong_label_is_left_out_and_reported_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "one.yaml").write_text(
        "- targets: ['10.0.0.2:80']\n  labels: {capacity: many}\n- targets: ['10.0.0.3:80', 'no-port']\n"
    )
    sources = Sources()
    fleet = sources.build(policy_with_files(tmp_path), Fleet())
    assert {e.host for e in fleet.endpoints} == {"10.0.0.1", "10.0.0.3"}
    assert len(sources.problems) == 2
    assert "capacity is 'many'" in str(sources.problems[0])


@pytest.mark.parametrize(
    "content", [b"\x00\x00\x00", b"\xff\xfe", b"- targets: ['a:1']\n  labels: {gpu_count: '100'}\n"]
)
def test_no_content_of_a_file_ends_the_server(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "one.yaml").write_bytes(content)
    sources = Sources()
    assert set(sources.build(policy_with_files(tmp_path), Fleet()).by_id) == {"own"}
    assert len(sources.problems) == 1
    assert "\n" not in str(sources.problems[0])


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "pipe.yaml")
    sources = Sources()
    assert set(sources.build(policy_with_files(tmp_path), Fleet()).by_id) == {"own"}
    assert "is not a regular file" in sources.problems[0].message


@pytest.mark.parametrize(
    "labels", ["capacity: '1e15'", "id: ''", 'id: "x\\ud800"', "id: 'a b'", "gpu_memory_gb: '1e300'"]
)
def test_a_label_out_of_bounds_leaves_its_target_out(tmp_path: Path, labels: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "one.yaml").write_text(f"- targets: ['10.0.0.2:80']\n  labels: {{{labels}}}\n")
    sources = Sources()
    assert set(sources.build(policy_with_files(tmp_path), Fleet()).by_id) == {"own"}
    assert len(sources.problems) == 1


def test_a_fleet_whose_sources_say_the_same_is_not_built_again(tmp_path: Path) -> None:
    loaded = policy_with_files(tmp_path)
    (tmp_path / "t").mkdir()
    file = tmp_path / "t" / "one.yaml"
    sources = Sources()
    file.write_text("- targets: ['gpu.example:1']\n")
    sources.answers["gpu.example"] = ("10.0.0.9",)
    first = sources.build(loaded, Fleet())
    assert sources.build(loaded, first) is first
    file.write_text("- targets: ['gpu.example:1', '10.0.0.2:1']\n")
    second = sources.build(loaded, first)
    assert len(second.endpoints) == 3
    assert sources.build(loaded, first) == second, "the fleet in force was not built from what is said now"
    registered = (endpoint("z", port=99),)
    assert "z" in sources.build(loaded, second, registered).by_id
