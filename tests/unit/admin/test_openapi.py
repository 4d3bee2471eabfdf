"""The API keeps what its description promises."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from gpuxds.admin import answers, reserving
from gpuxds.admin.keys import Keys, Role, digest_of
from gpuxds.admin.routes import OPERATIONS
from gpuxds.errors import EnvironmentProblem
from gpuxds.signals.model import Signal
from unit.admin.test_api import admin

ANSWERS = {
    "/api/v1/endpoints": answers.Endpoints,
    "/api/v1/endpoints/a": answers.Endpoint,
    "/api/v1/explain": answers.Explained,
    "/api/v1/explain?endpoint=a": answers.Explained,
    "/api/v1/signals": answers.Recording,
    "/api/v1/proxies": answers.Proxies,
    "/api/v1/loadbalancer/strategy": answers.Strategies,
    "/api/v1/loadbalancer/loads": answers.Loads,
    "/api/v1/loadbalancer/loads?instance_id=a": answers.Loads,
    "/api/v1/loadbalancer/load?instance_id=a": answers.Instance,
    "/api/v1/gpu/instances/reservations": reserving.Reservations,
    "/api/admin/load-balancer": answers.LoadBalancer,
    "/api/v1/policy": answers.Policy,
}


@pytest.mark.parametrize("path", list(ANSWERS))
async def test_an_answer_is_of_its_type_down_to_the_last_field(tmp_path: Path, path: str) -> None:
    async with admin(tmp_path) as (client, engine):
        engine.store.record("a", {Signal.RUNNING: 3.0, Signal.WAITING: 0.0, Signal.ANSWERED: 1.0}, time.time())
        engine.decide()
        text = await (await client.get(path)).text()
        TypeAdapter(ANSWERS[path]).validate_json(text, strict=True)


@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing_that_contradicts_the_description(tmp_path: Path) -> None:
    async with admin(tmp_path) as (client, _):
        url = str(client.make_url("/api/openapi.json"))
        run = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")), "run", url, "--max-examples", "15", "--seed", "1",
            "--no-color", "--checks", "all", "--exclude-checks", "ignored_auth,positive_data_acceptance",
            "--suppress-health-check", "all", "--exclude-path", "/api/v1/events",
            "--exclude-operation-id", "register_endpoint", "--exclude-operation-id", "change_endpoint",
            "--exclude-operation-id", "reserve",  # 503 is an answer of its own there: nothing can be had
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told = (await run.communicate())[0].decode()
    assert run.returncode == 0, told[-6000:]


def test_every_operation_that_changes_something_asks_for_the_operators_role() -> None:
    for operation in OPERATIONS:
        assert operation.role is (Role.READ if operation.method == "get" else Role.OPERATE), operation.path


async def test_a_key_that_may_read_may_not_operate(tmp_path: Path) -> None:
    async with admin(tmp_path, token="read r-key\noperate o-key\n") as (client, _):
        reader, operator = {"X-API-Key": "r-key"}, {"Authorization": "Bearer o-key"}
        assert (await client.get("/api/v1/policy", headers=reader)).status == 200
        refused = await client.post("/api/v1/endpoints/a/undrain", headers=reader)
        assert refused.status == 403
        assert "may read" in (await refused.json())["detail"]
        assert (await client.post("/api/v1/endpoints/a/undrain", headers=operator)).status == 200
        assert (await client.get("/api/openapi.json")).status == 200


def test_keys_may_be_hashed_rotate_and_survive_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the on-call\nread sha256:{digest_of('r').hex()}  # dashboards\n\no\n")
    keys = Keys(file)
    assert [keys.role_of(key) for key in ("r", "o", "x", "")] == [Role.READ, Role.OPERATE, Role.NONE, Role.NONE]
    file.write_text("operate r\n")
    keys.read_at = 0
    assert keys.role_of("r") is Role.OPERATE
    file.write_text("admin r\n")
    assert keys.role_of("r") is Role.OPERATE, "a broken file changes nothing"
    file.unlink()
    assert keys.role_of("r") is Role.OPERATE
    assert Keys(None).role_of("") is Role.OPERATE


@pytest.mark.parametrize("line", ["admin key", "read a b", "read sha256:12", "sha256:zz"])
def test_a_wrong_line_of_a_key_file_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"read good\n{line}\n")
    with pytest.raises(EnvironmentProblem, match=":2: "):
        Keys(tmp_path / "keys").refresh()
