"""What comes in that nobody should send, and what must not go out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuxds.redact import redacted
from support.waiting import until
from unit.admin.test_api import POLICY, admin


@pytest.mark.parametrize(
    ("path", "method", "options", "status", "words"),
    [
        ("/nowhere", "GET", {}, 404, "/api/openapi.json describes"),
        ("/api/v1/endpoints", "PATCH", {}, 405, "this path takes GET, POST, not PATCH"),
        (
            "/api/v1/endpoints/a/drain",
            "POST",
            {"data": b"{}", "headers": {"Content-Encoding": "gzip"}},
            400,
            "body",
        ),
        ("/api/v1/endpoints/a?force=1", "DELETE", {}, 400, "force=true"),
        (
            "/api/v1/loadbalancer/strategy",
            "PUT",
            {"json": {"strategy": "round_robin", "pool": ""}},
            404,
            "no pool ''",
        ),
    ],
)
async def test_every_refusal_is_a_problem_document_with_a_sentence(
    tmp_path: Path, path: str, method: str, options: dict[str, Any], status: int, words: str
) -> None:
    async with admin(tmp_path) as (client, _):
        answer = await client.request(method, path, **options)
        text = await answer.text()
        assert (answer.status, answer.content_type) == (status, "application/problem+json"), text
        assert words in json.loads(text)["detail"]


async def test_a_key_that_is_no_text_is_a_wrong_key(tmp_path: Path) -> None:
    async with admin(tmp_path, token="operate right\n") as (client, _):
        for headers in (
            {"X-API-Key": "\udcff\udcfe"},
            {"Authorization": "Bearer \udcff"},
            {"Authorization": "Basic x"},
        ):
            assert (await client.get("/api/v1/policy", headers=headers)).status == 401
        assert (await client.get("/api/v1/policy", headers={"Authorization": "bearer right"})).status == 200


async def test_a_web_page_changes_nothing_on_a_server_without_keys(tmp_path: Path) -> None:
    page = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    async with admin(tmp_path) as (client, engine):
        answer = await client.post("/api/v1/endpoints/a/drain", data='{"force": true}', headers=page)
        assert answer.status == 403
        assert "--api-key-file" in (await answer.json())["detail"]
        assert not engine.drains.by_id


async def test_before_the_first_decision_questions_about_the_fleet_are_answered_with_not_yet(
    tmp_path: Path,
) -> None:
    async with admin(tmp_path, run=False) as (client, _):
        for path in ("v1/endpoints", "v1/explain", "v1/loadbalancer/loads", "admin/load-balancer"):
            assert (await client.get(f"/api/{path}")).status == 503, path


async def test_a_password_in_a_url_is_told_to_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with admin(tmp_path) as (client, engine):
        secret = "http://scraper:S3CRET@127.0.0.1:9/m"
        engine.settings.policy_path.write_text(
            POLICY.replace("gpu: {model: L4}", f"gpu: {{model: L4}}, metrics: {{gpu: '{secret}'}}")
        )
        await until(lambda: engine.holder.last.changed != () and engine.holder.last.at > 0, 5, "it is loaded")
        await until(lambda: any(e.metrics.gpu_url for e in engine.fleet.endpoints), 5, "it is in force")
        for path in ("/api/v1/policy", "/api/v1/endpoints"):
            assert "S3CRET" not in await (await client.get(path)).text()
        async with client.get("/api/v1/events?after=0") as stream:
            line = b""
            while b"gpu" not in line:
                line = await stream.content.readline()
            assert b"S3CRET" not in line
            assert b"http://scraper:***@127.0.0.1" in line


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("see http://u:p@h/x and https://v:q@i", "see http://u:***@h/x and https://v:***@i"),
        ('{"url": "http://u:p@h"}', '{"url": "http://u:***@h"}'),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("mail u:p@h", "mail u:p@h"),
    ],
)
def test_only_passwords_of_urls_are_cut(text: str, clean: str) -> None:
    assert redacted(text) == clean


async def test_a_reader_who_was_away_for_too_long_is_told_of_the_gap(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, engine):
        oldest = engine.events.kept[0].id
        async with client.get(f"/api/v1/events?after={oldest - 100}") as stream:
            lines = [await stream.content.readline() for _ in range(2)]
        assert lines[1] == b"event: gap\n"
        async with client.get("/api/v1/events?after=0") as stream:
            lines = [await stream.content.readline() for _ in range(2)]
        assert lines[1] != b"event: gap\n"
