"""What an operator reads when a policy is wrong: every problem at once, with place, rule and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuxds.assets import asset
from gpuxds.cli.app import app
from gpuxds.errors import PolicyError
from gpuxds.policy.diff import changes
from gpuxds.policy.gpus import PRIORS
from gpuxds.policy.loader import load, load_text
from gpuxds.simulator.gpus import TYPES

GOOD = """\
version: 1
pools:
  - name: chat
    endpoints:
      - id: a
        address: 10.0.0.1:8000
        gpu: {model: H100-80}
      - id: b
        address: 10.0.0.2:8000
        gpu: {model: L4}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as refused:
        load_text(text, "p.yaml")
    return [str(problem) for problem in refused.value.problems]


CASES = [
    ("        capacty: 3", "p.yaml:8:9: pools[0].endpoints[0].capacty: unknown key 'capacty'; did you mean 'capacity'?", "unknown key"),
    ("        capacity: 0", "p.yaml:8:19: pools[0].endpoints[0].capacity: 0 must be greater than 0", "capacity 0"),
    ("        capacity: -4", "p.yaml:8:19: pools[0].endpoints[0].capacity: -4 must be greater than 0", "negative capacity"),
    ("        capacity: many", "p.yaml:8:19: pools[0].endpoints[0].capacity: 'many' must be a whole number", "capacity in words"),
    ("        price_per_hour: .nan", "p.yaml:8:25: pools[0].endpoints[0].price_per_hour: nan must be a finite number", "NaN"),
    ("        metrics: {engine: 'ftp://x'}", "p.yaml:8:27: pools[0].endpoints[0].metrics.engine: 'ftp://x' is not a URL", "not a URL"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected", "what"), CASES, ids=[case[2] for case in CASES])
def test_a_wrong_line_is_named_with_its_place_and_the_remedy(line: str, expected: str, what: str) -> None:
    lines = GOOD.splitlines()
    lines.insert(7, line)
    found = problems("\n".join(lines))
    assert len(found) == 1, what
    assert found[0].startswith(expected)


REPLACED = [
    ("id: b", "id: a", "'a' is the id of pools[0].endpoints[0] too"),
    ("10.0.0.2:8000", "10.0.0.1:8000", "is the address of pools[0].endpoints[0] too"),
    ("10.0.0.2:8000", "10.0.0.2", "has no port; write host:port"),
    ("10.0.0.2:8000", "'fd00::1:8000'", "write IPv6 addresses in brackets"),
    ("{model: L4}", "{model: L4, memory_gb: 80}", "80 contradicts model 'L4', which has 24"),
    ("{model: L4}", "{model: B300}", "GPU model 'B300' is not known"),
    ("    endpoints:", "    strategy: fastest\n    endpoints:", "no such strategy: 'fastest'"),
    ("    endpoints:", "    strategy: gpu_awre\n    endpoints:", "did you mean 'gpu_aware'?"),
    ("    endpoints:", "    strategy: {name: least_load, other: 1}\n    endpoints:", "unknown key 'other'"),
    ("    endpoints:", "    drain: {deadline: -5s}\n    endpoints:", "pools[0].drain.deadline"),
    ("    endpoints:", "    drain: {deadline: soon}\n    endpoints:", "500ms"),
    ("    endpoints:", "    engine: vlm\n    endpoints:", "did you mean 'vllm'?"),
    ("version: 1", "version: 2", "allowed: 1"),
    ("version: 1\n", "", "version: is required"),
    ("version: 1", "version: 1\nsignals: {engine: {stale_after: 1s}}", "is not above the interval"),
    ("version: 1", "version: 1\nnode_groups: [{name: x, cluster: c, pools: [chta]}]", "did you mean 'chat'?"),
    ("version: 1", "version: 1\nnode_groups: [{name: x, pools: [chat]}]", "selects no proxy"),
    ("version: 1", "version: [1", "not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), REPLACED, ids=[f"{case[2]}" for case in REPLACED])
def test_every_kind_of_mistake_has_words_of_its_own(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in "\n".join(problems(GOOD.replace(old, new)))


def test_a_pool_without_endpoints_or_sources_is_an_error() -> None:
    found = problems("version: 1\npools:\n  - name: empty\n")
    assert found == ["p.yaml:3:5: pools[0]: pool 'empty' has no endpoints; give `endpoints` or `file_sd`"]


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("id: a", "idd: a")
        .replace("model: L4", "model: 7")
        .replace("version: 1", "version: 1\nlisener: {}")
    )
    found = problems(text)
    assert len(found) >= 4
    assert found == sorted(found, key=lambda line: int(line.split(":")[1]))


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_a_file_that_is_no_mapping_says_so(text: str) -> None:
    assert "mapping" in problems(text)[0] or "empty" in problems(text)[0]


def test_an_unknown_gpu_with_memory_and_capacity_is_a_warning() -> None:
    loaded = load_text(
        GOOD.replace("gpu: {model: L4}", "gpu: {model: B300, memory_gb: 288}\n        capacity: 400"), "p.yaml"
    )
    assert [problem.severity for problem in loaded.warnings] == ["warning"]
    assert "guessed from its memory" in str(loaded.warnings[0])


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("2m", 120.0), ("1h", 3600.0)])
def test_durations(text: str, seconds: float) -> None:
    loaded = load_text(GOOD.replace("    endpoints:", f"    drain: {{deadline: {text}}}\n    endpoints:"), "p.yaml")
    assert loaded.policy.pools[0].drain.deadline == seconds


def test_what_changed_between_two_policies_is_told_in_sentences() -> None:
    old = load_text(GOOD, "p.yaml").policy
    new = load_text(
        GOOD.replace("{model: L4}", "{model: L40S}").replace("name: chat", "name: chat\n    strategy: full_scan"),
        "p.yaml",
    ).policy
    told = " / ".join(changes(old, new))
    assert "gpu_aware" in told
    assert "full_scan" in told
    assert "L40S" in told
    assert changes(old, old) == ()


def test_priors_are_those_of_the_physics_the_simulator_uses() -> None:
    assert set(PRIORS) == set(TYPES)
    for name, prior in PRIORS.items():
        gpu = TYPES[name]
        assert prior.step_s == pytest.approx(gpu.step_s(1, 1366, (), 1.0), rel=0.03)
        assert prior.kv_tokens == pytest.approx(gpu.kv_tokens, rel=0.02)
        assert prior.memory_gb == pytest.approx(gpu.memory_mib * 2**20 / 1e9, rel=0.1)


run = CliRunner().invoke


def test_check_prints_a_summary_and_ends_with_0(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    result = run(app, ["check", str(path)])
    assert result.exit_code == 0
    assert "pool chat: 2 endpoints, strategy gpu_aware" in result.stdout


def test_check_prints_every_problem_of_every_file_and_ends_with_1(tmp_path: Path) -> None:
    good, bad, missing = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "missing.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("id: b", "id: a"))
    result = run(app, ["check", str(good), str(bad), str(missing)])
    assert result.exit_code == 1
    assert f"{bad}:8:13: pools[0].endpoints[1].id:" in result.stdout
    assert "cannot be read: No such file" in result.stdout
    assert "pool chat" in result.stdout


def test_check_prints_a_schema_that_names_every_strategy() -> None:
    result = run(app, ["check", "--schema"])
    assert result.exit_code == 0
    assert '"gpu_aware"' in result.stdout
    assert '"$defs"' in result.stdout


def test_the_default_policy_and_every_example_are_good() -> None:
    files = [asset("policies", "default.yaml"), *sorted(asset("policies", "examples").glob("*.yaml"))]
    assert len(files) > 3
    for file in files:
        assert load(file).warnings == (), file


REFUSED = [
    ("    endpoints:", "    timeouts: {connect: 0s}\n    endpoints:", "timeouts.connect: must be longer than 0s"),
    ("    endpoints:", "    timeouts: {idle: 99999999999h}\n    endpoints:", "longer than 30 days"),
    ("    endpoints:", "    outlier_detection: {base_ejection_time: 0s}\n    endpoints:", "must be longer than 0s"),
    ("    endpoints:", "    match: {prefix: /a, rewrite: /}\n    endpoints:", "must both end with / or both not"),
    ("    endpoints:", "    hedging: {after: 0s}\n    endpoints:", "p.yaml:4:22: pools[0].hedging.after: must be longer than 0s"),
    ("    endpoints:", "    hedging: {}\n    endpoints:", "pools[0].hedging.after: is required"),
    ("    endpoints:", "    hedging: {after: 1s}\n    retries: {attempts: 0}\n    endpoints:", "pools[0].hedging: needs retries, and retries.attempts is 0"),
    ("    endpoints:", "    retries: {attempts: 0, stuck_after: 1s}\n    endpoints:", "retries.stuck_after: needs retries"),
    ("    endpoints:", "    retries: {on_status: [200]}\n    endpoints:", "p.yaml:4:27: pools[0].retries.on_status[0]: 200 must be at least 400"),
    ("    endpoints:", "    timeouts: {header: 'x wait'}\n    endpoints:", "pools[0].timeouts.header: 'x wait' must match"),
    ("    endpoints:", "    timeouts: {header: X-Envoy-Max-Retries}\n    endpoints:", "HTTP's or ours; name one that clients set"),
    ("version: 1", "version: 1\nestimate: {trust_header: content-length}", "HTTP's or ours; name one that clients set"),
    ("version: 1", "version: 1\nestimate: {trust_header: authorization}", "name a header in which a gateway says tokens"),
    ("    endpoints:", "    timeouts: {buffer: 0.5}\n    endpoints:", "timeouts.buffer: 0.5 must be at least 1"),
    ("    endpoints:", "    strategy: 5\n    endpoints:", "must be a name or a mapping"),
    ("version: 1", "version: '1'", "write 1 without quotes"),
    ("version: 1", "version: 1\nlistener: {address: my.host}", "not an IP address"),
    ("gpu: {model: L4}", "gpu: {model: L4}\n        metrics: {gpu: 'http://[bad'}", "is not a URL"),
    ("gpu: {model: L4}", "gpu: {model: L4}\n        capacity: 99999999999999999999", "must be at most 1e+06"),
    ("10.0.0.2:8000", "10.0.0.1:08000", "is the address of pools[0].endpoints[0] too"),
    ("version: 1", "version: 1\nnode_groups: [{name: q, cluster: a, pools: [chat]}, {name: q, cluster: b, pools: [chat]}]", "is the name of node_groups[0] too"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_envoy_or_the_server_could_not_live_with_is_refused_here(old: str, new: str, expected: str) -> None:
    assert expected in "\n".join(problems(GOOD.replace(old, new)))


def test_a_total_that_idle_would_cut_first_is_warned_about() -> None:
    loaded = load_text(GOOD.replace("    endpoints:", "    timeouts: {request: 5m}\n    endpoints:"), "p.yaml")
    (warning,) = loaded.warnings
    assert "360 s with its buffer: idle cuts a silent request after 300 s already" in warning.message


def test_a_value_inherited_through_a_merge_key_is_placed_at_its_mapping() -> None:
    text = """version: 1
pools:
  - name: chat
    endpoints:
      - &a {id: a, address: '10.0.0.1:80', gpu: {model: L4}, capacity: 0}
      - {<<: *a, id: b, address: '10.0.0.2:80'}
"""
    assert [line.split(": ")[0] for line in problems(text)] == ["p.yaml:5:72", "p.yaml:6:9"]


def test_a_nul_byte_is_told_in_one_line() -> None:
    (found,) = problems("version: 1\x00\n")
    assert "\n" not in found


def test_ipv6_addresses_written_differently_are_the_same() -> None:
    text = GOOD.replace("10.0.0.1:8000", "'[::1]:8000'").replace("10.0.0.2:8000", "'[0:0:0:0:0:0:0:1]:8000'")
    assert "is the address of pools[0].endpoints[0] too" in problems(text)[0]


def test_files_are_relative_to_the_policy_not_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD + "signals: {engine: {ca_file: ca.pem, bearer_token_file: /abs/token}}\n")
    engine = load(tmp_path / "p.yaml").policy.signals.engine
    assert engine.ca_file == str(tmp_path / "ca.pem")
    assert engine.bearer_token_file == "/abs/token"
