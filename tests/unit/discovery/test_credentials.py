"""Who may connect, and what is said when anybody may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuxds.discovery.credentials import Credentials, TokenCheck, insecure_warning
from gpuxds.errors import EnvironmentProblem

HERE = Path(__file__)


@pytest.mark.parametrize("address", ["0.0.0.0:18000", "[::]:18000", "10.0.0.5:18000", "cp.internal:18000"])
def test_an_address_others_can_reach_without_credentials_is_warned_about(address: str) -> None:
    assert "give --tls-cert" in insecure_warning(address, Credentials())
    assert insecure_warning(address, Credentials(HERE, HERE)), "TLS alone does not ask who connects"
    assert insecure_warning(address, Credentials(HERE, HERE, HERE)) == ""
    assert insecure_warning(address, Credentials(token_file=HERE)) == ""


@pytest.mark.parametrize("address", ["127.0.0.1:18000", "[::1]:18000", "localhost:18000"])
def test_loopback_is_not(address: str) -> None:
    assert insecure_warning(address, Credentials()) == ""


def test_half_of_a_pair_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="--tls-cert and --tls-key"):
        Credentials(tls_cert=HERE)
    with pytest.raises(EnvironmentProblem, match="need TLS"):
        Credentials(tls_client_ca=HERE)
    with pytest.raises(EnvironmentProblem, match="No such file"):
        Credentials(HERE, Path("/does/not/exist")).server_credentials()


def test_a_token_is_compared_whole_rotates_and_survives_a_moment_without_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    check = TokenCheck(file)
    assert check.admits([("authorization", "Bearer one")])
    assert not check.admits([("authorization", "Bearer on")])
    assert not check.admits([("authorization", "one")])
    assert not check.admits([])
    file.unlink()
    assert check.admits([("authorization", "Bearer one")])
    file.write_text("two\n")
    os.utime(file, ns=(1, 1))
    assert check.admits([("authorization", "Bearer two")])
    assert not check.admits([("authorization", "Bearer one")])


def test_an_empty_token_file_admits_nobody(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    assert not TokenCheck(tmp_path / "token").admits([("authorization", "Bearer ")])
    assert not TokenCheck(tmp_path / "missing").admits([("authorization", "Bearer ")])


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"a\nb"])
def test_a_token_file_that_holds_something_else_is_refused_at_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="one token"):
        Credentials(token_file=tmp_path / "token").server_credentials()


def test_files_that_are_no_certificate_are_named() -> None:
    with pytest.raises(EnvironmentProblem, match=f"{HERE.name} and .* are not a certificate and its key"):
        Credentials(HERE, HERE).server_credentials()
