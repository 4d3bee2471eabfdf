"""Who may connect: TLS, mutual TLS and bearer tokens, all from files that may rotate while we run.

Certificates are read again when a file's modification time changes, at the next handshake; streams that are
open go on until the server's maximum connection age ends them. The token file is read when it changes.
"""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from gpuxds.errors import EnvironmentProblem
from gpuxds.files import read_token


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files that say who may connect. Raises EnvironmentProblem when half of a pair is missing."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """Clients must present a certificate of this CA."""
    token_file: Path | None = None
    """Clients must send `authorization: Bearer <content>`."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise EnvironmentProblem("TLS needs both a certificate and its key: give --tls-cert and --tls-key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise EnvironmentProblem("client certificates need TLS: give --tls-cert and --tls-key as well")

    @property
    def open(self) -> bool:
        """Anybody who can reach the port may connect."""
        return self.tls_client_ca is None and self.token_file is None

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """What grpc.aio listens with; None for plain text. Raises EnvironmentProblem for unusable files."""
        if self.token_file is not None:
            read_secret(self.token_file)
        if self.tls_cert is None or self.tls_key is None:
            return None
        self.configuration()
        check_pair(self.tls_cert, self.tls_key)
        stamps = self.stamps()

        def renew() -> grpc.ServerCertificateConfiguration | None:
            nonlocal stamps
            now = self.stamps()
            if now == stamps:
                return None
            stamps = now
            return self.configuration()

        return grpc.dynamic_ssl_server_credentials(
            self.configuration(),
            renew,  # type: ignore[arg-type]  # None is documented: nothing changed
            require_client_authentication=self.tls_client_ca is not None,
        )

    def files(self) -> list[Path]:
        """The TLS files."""
        return [path for path in (self.tls_cert, self.tls_key, self.tls_client_ca) if path is not None]

    def stamps(self) -> tuple[int, ...]:
        """Modification times; 0 for a file that is being replaced."""
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self.files())

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The certificates as they are now. Raises EnvironmentProblem when a file cannot be read."""
        assert self.tls_cert is not None
        assert self.tls_key is not None
        try:
            pair = (self.tls_key.read_bytes(), self.tls_cert.read_bytes())
            ca = self.tls_client_ca.read_bytes() if self.tls_client_ca else None
        except OSError as error:
            raise EnvironmentProblem(f"{error.filename}: {error.strerror}") from error
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)


def check_pair(cert: Path, key: Path) -> None:
    """Raises EnvironmentProblem when these are not a certificate and its key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise EnvironmentProblem(f"{cert} and {key} are not a certificate and its key: {error}") from error


def read_secret(path: Path) -> str:
    """The one token in a file. Raises OSError, or EnvironmentProblem when the file holds something else."""
    try:
        return read_token(path)
    except ValueError as error:
        raise EnvironmentProblem(str(error)) from error


@dataclass(slots=True)
class TokenCheck:
    """Compares what clients send with the content of a file."""

    file: Path | None
    seen: tuple[int, str] = field(default=(0, ""))
    """Modification time and content."""

    def admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call with this metadata may go on; an unreadable file keeps the token read last."""
        if self.file is None:
            return True
        try:
            stamp = self.file.stat().st_mtime_ns
            if stamp != self.seen[0]:
                self.seen = (stamp, read_secret(self.file))
        except (OSError, EnvironmentProblem):
            if not self.seen[1]:
                return False
        given = next((str(value) for key, value in metadata if key == "authorization"), "")
        return bool(self.seen[1]) and hmac.compare_digest(given.encode(), f"Bearer {self.seen[1]}".encode())


def insecure_warning(address: str, credentials: Credentials) -> str:
    """A sentence when the address can be reached from elsewhere and nobody is asked who they are; else empty."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or not credentials.open:
        return ""
    try:
        if ipaddress.ip_address(host).is_loopback:
            return ""
    except ValueError:
        pass
    return (
        f"{address} serves configuration to anybody who can reach it: give --tls-cert, --tls-key and "
        "--tls-client-ca, or --token-file, or bind 127.0.0.1"
    )
