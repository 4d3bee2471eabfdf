"""Commands that need no server: bootstrap and explaining a recording; and how the others fail without one."""

from __future__ import annotations

import importlib
import inspect
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from gpuxds.assets import asset
from gpuxds.cli.app import COMMANDS, app
from gpuxds.cli.exits import MEANINGS
from gpuxds.errors import GpuxdsError

run = CliRunner().invoke


def failure(*arguments: str) -> str:
    """The message a command ends with."""
    with pytest.raises(GpuxdsError) as refused:
        run(app, list(arguments), catch_exceptions=False)
    return str(refused.value)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = run(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout) > 200


def test_an_unknown_command_suggests_the_right_one() -> None:
    result = run(app, ["proxys"])
    assert result.exit_code == 2
    assert "proxies" in result.output


def test_bootstrap_prints_what_the_repository_shows() -> None:
    result = run(app, ["bootstrap", "--node", "envoy-1"])
    assert result.exit_code == 0
    assert result.stdout == asset("envoy", "bootstrap.yaml").read_text()


def test_bootstrap_takes_node_server_metadata_and_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    result = run(app, [
        "bootstrap", "--node", "n", "--server", "cp.example:18000", "--cluster", "edge",
        "--metadata", "team=search", "--token-file", str(token), "--sotw",
    ])  # fmt: skip
    made = YAML(typ="safe").load(result.stdout)
    assert made["node"] == {"id": "n", "cluster": "edge", "metadata": {"team": "search"}}
    ads = made["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == "GRPC"
    assert "initial_metadata" not in ads["grpc_services"][0], "the token is said twice"
    (cluster,) = made["static_resources"]["clusters"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    (added,) = options["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
    assert added["append"]["header"] == {"key": "authorization", "value": "Bearer secret"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metadata", "team"], "write key=value"),
        (["--server", "nowhere"], "write host:port"),
        (["--cert", "x"], "--ca, --cert and --key together"),
        (["--token-file", "/does/not/exist"], "No such file"),
        (["--sds-dir", "x"], "give --ca"),
    ],
)
def test_bootstrap_refuses_what_cannot_work_in_words(arguments: list[str], words: str) -> None:
    assert words in failure("bootstrap", "--node", "n", *arguments)


@pytest.mark.parametrize("command", [["endpoints"], ["proxies"], ["explain"], ["drain", "x"], ["undrain", "x"]])
def test_without_a_server_a_command_says_how_to_start_one(command: list[str]) -> None:
    text = failure(*command, "--admin", "127.0.0.1:1")
    assert "no gpuxds server answers at http://127.0.0.1:1" in text
    assert "gpuxds serve POLICY" in text


def test_a_recording_explains_a_policy_without_a_server(tmp_path: Path) -> None:
    recording = tmp_path / "signals.json"
    recording.write_text(json.dumps({
        "now": 1000.0,
        "endpoints": {
            "h100": {"running": 12, "waiting": 0, "answered": 1},
            "l4": {"running": {"value": 3, "age_s": 1.5}, "waiting": 0, "answered": 1},
        },
    }))  # fmt: skip
    result = run(app, ["explain", str(asset("policies", "default.yaml")), "--signals", str(recording)])
    assert result.exit_code == 0, result.output
    for word in ("capacity", "fast_first", "correction", "backlog", "compensation", "product", "1.5 s"):
        assert word in result.stdout
    as_json = run(app, ["explain", str(asset("policies", "default.yaml")), "--signals", str(recording), "--json"])
    rows = {row["id"]: row for row in json.loads(as_json.stdout)["endpoints"]}
    assert rows["h100"]["wanted"] > rows["l4"]["wanted"]


def test_explain_offline_shows_the_endpoints_of_large_requests_with_weights_of_their_own(tmp_path: Path) -> None:
    recording = tmp_path / "signals.json"
    idle = {"running": 0, "waiting": 0, "answered": 1}
    recording.write_text(json.dumps({"now": 1000.0, "endpoints": {"h100-1": idle, "l40s-1": idle, "l4-1": idle}}))
    policy = str(asset("policies", "examples", "large-requests.yaml"))
    told = json.loads(run(app, ["explain", policy, "--signals", str(recording), "--json"]).stdout)
    members = {row["id"] for row in told["endpoints"] if row["cluster"] == "chat/large"}
    assert members == {"h100-1", "l40s-1"}
    shown = run(app, ["explain", policy, "--signals", str(recording)]).stdout
    assert "in chat/large" in shown
    assert "above 8192 tokens" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a recorded signals file"),
        ('{"endpoints": {"a": {"runing": 1}}}', "no such signal"),
        ("{}", "endpoints"),
    ],
)
def test_a_recording_that_is_wrong_is_refused_in_words(tmp_path: Path, content: str, words: str) -> None:
    recording = tmp_path / "signals.json"
    recording.write_text(content)
    assert words in failure("explain", str(asset("policies", "default.yaml")), "--signals", str(recording))


def test_serve_refuses_what_cannot_work_before_it_serves(tmp_path: Path) -> None:
    assert "cannot be read" in failure("serve", str(tmp_path / "missing.yaml"), "--state-dir", str(tmp_path))
    assert "--tls-cert and --tls-key" in failure("serve", "x.yaml", "--tls-cert", __file__)
    assert "no such file" in failure("serve", "x.yaml", "--token-file", "/does/not/exist")
    assert "write host:port" in failure("serve", "x.yaml", "--xds", "nowhere")


def test_version_is_one_line_that_scripts_can_take_as_it_is() -> None:
    result = run(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"{version('gpuxds')}\n"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_help_page_says_of_a_command_what_the_command_says_of_itself(command: str) -> None:
    module = importlib.import_module(f"gpuxds.cli.{COMMANDS[command].module}")
    told = inspect.getdoc(getattr(module, command.replace("-", "_"))) or ""
    assert told.splitlines()[0] == COMMANDS[command].summary


def test_gpuxds_alone_says_what_to_do_first_and_groups_its_commands() -> None:
    result = run(app, [])
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("  gpuxds ")]
    assert [line.split()[1] for line in lines] == ["demo", "check", "bootstrap"]
    panels = [result.stdout.index(f"─ {name} ─") for name in ("Begin", "Look", "Change", "On each GPU host")]
    assert panels == sorted(panels)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_help_tells_every_exit_status() -> None:
    words = " ".join(run(app, ["--help"]).stdout.split())
    for status, meaning in MEANINGS.items():
        assert f"{status.value} {meaning}" in words


def test_bootstrap_of_a_guard_is_named_after_its_endpoint() -> None:
    result = run(app, ["bootstrap", "--role", "guard", "--endpoint", "gpu-1"])
    assert result.exit_code == 0
    assert YAML().load(result.stdout)["node"] == {
        "id": "guard-gpu-1", "cluster": "gpuxds", "metadata": {"role": "guard", "endpoint": "gpu-1"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--role", "guard"], "a guard stands before one endpoint: give --endpoint"),
        (["--node", "n", "--endpoint", "gpu-1"], "--endpoint gpu-1 is for guards: give --role guard as well"),
        ([], "give --node: a proxy's id must be unique"),
    ],
)
def test_bootstrap_says_what_a_role_needs(arguments: list[str], expected: str) -> None:
    assert expected in failure("bootstrap", *arguments)
