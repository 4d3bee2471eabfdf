"""`gpuxds bootstrap`: a configuration with which an Envoy follows this control plane."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gpuxds.cli.addresses import ADMIN_ADDRESS, XDS_ADDRESS, split_address
from gpuxds.discovery.credentials import read_secret
from gpuxds.errors import EnvironmentProblem, Misuse
from gpuxds.snapshot.bootstrap import BootstrapOptions, render, sds_files

ENVOY_ADMIN = "127.0.0.1:9901"


class Role(StrEnum):
    """What an Envoy is for."""

    PROXY = "proxy"
    GUARD = "guard"


def bootstrap(
    node: Annotated[
        str | None,
        typer.Option(
            help="The proxy's id; unique, since proxies are counted by it.  [default for a guard: guard-ENDPOINT]"
        ),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="proxy: balances over the fleet; guard: stands before one endpoint.")
    ] = Role.PROXY,
    endpoint: Annotated[str | None, typer.Option(help="Id of the endpoint that a guard guards.")] = None,
    server: Annotated[str, typer.Option(help="The control plane as the proxy reaches it.")] = XDS_ADDRESS,
    cluster: Annotated[str, typer.Option(help="node.cluster, by which node groups may select.")] = "gpuxds",
    metadata: Annotated[
        list[str] | None, typer.Option(help="node.metadata entry as key=value; may be repeated.")
    ] = None,
    envoy_admin: Annotated[str, typer.Option(help="Where Envoy's own admin page listens.")] = ENVOY_ADMIN,
    sotw: Annotated[bool, typer.Option("--sotw", help="State of the world instead of incremental ADS.")] = False,
    ca: Annotated[Path | None, typer.Option(help="CA of the control plane's certificate; turns TLS on.")] = None,
    cert: Annotated[Path | None, typer.Option(help="The proxy's certificate, for mutual TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the proxy's certificate.")] = None,
    server_name: Annotated[
        str | None, typer.Option(help="Name in the control plane's certificate.", show_default="its host")
    ] = None,
    sds_dir: Annotated[
        Path | None,
        typer.Option(help="Write SDS files here, through which Envoy follows certificates that rotate."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token to send; written into the output.")] = None,
) -> None:
    """Print an Envoy configuration that follows this control plane."""
    if (cert is None) != (key is None) or (cert is not None and ca is None):
        raise Misuse("mutual TLS needs --ca, --cert and --key together")
    if sds_dir is not None and ca is None:
        raise Misuse("--sds-dir holds certificates: give --ca, and --cert and --key, as well")
    options = BootstrapOptions(
        node_id=node_id(node, role, endpoint),
        server=split_address(server),
        node_cluster=cluster,
        metadata=dict(entry(text) for text in metadata or ()),
        admin=split_address(envoy_admin, ADMIN_ADDRESS),
        state_of_the_world=sotw,
        ca_file=absolute(ca),
        cert_file=absolute(cert),
        key_file=absolute(key),
        server_name=server_name,
        sds_dir=absolute(sds_dir),
        token=read_token(token_file),
        guarded=endpoint,
    )
    if sds_dir is not None:
        sds_dir.mkdir(parents=True, exist_ok=True)
        for name, text in sds_files(options).items():
            (sds_dir / name).write_text(text, encoding="utf-8")
    typer.echo(render(options), nl=False)


def node_id(node: str | None, role: Role, endpoint: str | None) -> str:
    """The node's id. Raises Misuse when it, the role and the endpoint do not fit together."""
    if role is Role.PROXY and endpoint is not None:
        raise Misuse(f"--endpoint {endpoint} is for guards: give --role guard as well")
    if role is Role.GUARD and not (endpoint or "").strip():
        raise Misuse("a guard stands before one endpoint: give --endpoint with an id of the policy")
    found = f"guard-{endpoint}" if node is None and role is Role.GUARD else (node or "")
    if not found.strip():
        raise Misuse("give --node: a proxy's id must be unique, for example its host name")
    return found


def absolute(path: Path | None) -> str | None:
    """A path that holds wherever Envoy is started."""
    return None if path is None else str(path.absolute())


def entry(text: str) -> tuple[str, str]:
    """A metadata entry. Raises Misuse."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Misuse(f"--metadata {text!r}: write key=value")
    return key, value


def read_token(path: Path | None) -> str | None:
    """The token in a file. Raises EnvironmentProblem."""
    if path is None:
        return None
    try:
        return read_secret(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path}: {error.strerror}") from error
