"""How commands end: every status, and last words for people and for programs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpuxds.assets import asset
from gpuxds.cli.app import main
from gpuxds.cli.exits import MEANINGS

AWAY = "http://127.0.0.1:1"
POLICY = str(asset("policies", "default.yaml"))


class FakeAdmin(ThreadingHTTPServer):
    """Answers every request in the same way."""

    status, kind, body = 200, "application/json", b"{}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def refuse(self, status: int, title: str, detail: str) -> dict[str, Any]:
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": "/x"}
        self.status, self.kind, self.body = status, "application/problem+json", json.dumps(problem).encode()
        return problem


class Handler(BaseHTTPRequestHandler):
    """Says what its server is told to say."""

    server: FakeAdmin

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[FakeAdmin]:
    with FakeAdmin(("127.0.0.1", 0), Handler) as fake:
        serving = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield fake
        fake.shutdown()
        serving.join()


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What the program ends with."""
    monkeypatch.setattr("sys.argv", ["gpuxds", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("arguments", [[], ["--version"], ["check", POLICY]], ids=["alone", "version", "check"])
def test_what_was_done_ends_with_0(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert status(monkeypatch, *arguments) == 0


@pytest.mark.parametrize(("code", "title"), [(404, "UnknownEndpoint"), (409, "DrainRefused"), (503, "NoCapacity")])
def test_what_the_server_refuses_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin, capsys: pytest.CaptureFixture[str], code: int, title: str
) -> None:
    server.refuse(code, title, "it would leave nobody")
    assert status(monkeypatch, "drain", "x", "--admin", server.url) == 1
    assert capsys.readouterr().err == "gpuxds: it would leave nobody\n"


def test_a_policy_that_cannot_be_used_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(monkeypatch, "check", __file__) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["chekc"],
        ["check"],
        ["drain"],
        ["load", "rack"],
        ["lb-strategy", "full_scan", "--clear"],
        ["bootstrap", "--node", "n", "--metadata", "team"],
        ["bootstrap", "--node", "n", "--server", "nowhere"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert status(monkeypatch, *arguments) == 2


def test_no_server_ends_with_3_and_so_does_one_that_is_still_starting(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin
) -> None:
    assert status(monkeypatch, "endpoints", "--admin", AWAY) == 3
    server.refuse(503, "NotReady", "nothing was decided yet")
    assert status(monkeypatch, "endpoints", "--admin", server.url) == 3


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_does_not_suffice_ends_with_4(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin, code: int
) -> None:
    server.refuse(code, "Unauthorized", "send a key")
    assert status(monkeypatch, "endpoints", "--admin", server.url) == 4


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuxds.cli.fleet.call", interrupted)
    assert status(monkeypatch, "endpoints") == 130


@pytest.mark.parametrize(
    ("code", "kind", "body"),
    [
        (200, "text/html", b"<html>Grafana</html>"),
        (404, "application/json", b'{"detail": "Not Found"}'),
        (200, "application/json", b"[1]"),
        (502, "text/plain", b"no healthy upstream"),
    ],
    ids=["a page", "another API", "a list", "a proxy"],
)
@pytest.mark.parametrize("command", ["endpoints", "events"])
def test_another_program_at_the_address_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch,
    server: FakeAdmin,
    capsys: pytest.CaptureFixture[str],
    code: int,
    kind: str,
    body: bytes,
    command: str,
) -> None:
    server.status, server.kind, server.body = code, kind, body
    assert status(monkeypatch, command, "--admin", server.url) == 3
    words = capsys.readouterr().err
    assert f"{server.url} answers, but not as gpuxds does (HTTP {code}, {kind})" in words


def test_with_json_the_last_words_are_a_problem_document_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = server.refuse(404, "UnknownEndpoint", "no endpoint 'x'")
    assert status(monkeypatch, "explain", "x", "--json", "--admin", server.url) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err) == problem
    assert status(monkeypatch, "explain", "x", "--json", "--admin", AWAY) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err)["title"] == "ServerAway"


def test_check_tells_programs_what_it_tells_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "check", POLICY, "/does/not/exist", "--json") == 1
    good, bad = json.loads(capsys.readouterr().out)["files"]
    assert (good["ok"], good["problems"]) == (True, [])
    assert good["pools"][0].startswith("llama: 5 endpoints")
    assert bad["ok"] is False
    assert bad["problems"][0]["severity"] == "error"


def test_a_drain_and_its_end_can_be_read_by_a_program(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {
        "id": "x", "health": "drained", "in_eds": False, "acknowledged": True, "was_draining": True, "drain": None,
        "signals": {"running": 0, "waiting": 0},
    }  # fmt: skip
    server.body = json.dumps(answer).encode()
    for command in (["drain", "x"], ["drain", "x", "--wait"], ["undrain", "x"]):
        assert status(monkeypatch, *command, "--json", "--admin", server.url) == 0
        assert json.loads(capsys.readouterr().out) == answer


def test_loads_per_provider_are_so_for_programs_too(
    monkeypatch: pytest.MonkeyPatch, server: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict.fromkeys(("active", "running", "waiting", "capacity", "total", "failed"), 1)
    rows = [{"instance": name, "provider": "nimbus", "average_response_s": None, **row} for name in "ab"]
    server.body = json.dumps({"instances": rows}).encode()
    assert status(monkeypatch, "load", "provider", "--json", "--admin", server.url) == 0
    (only,) = json.loads(capsys.readouterr().out)["providers"]
    assert (only["provider"], only["running"]) == ("nimbus", 2)


def test_the_readme_lists_every_status() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in readme
