"""The bootstrap an Envoy needs to follow this control plane.

What is in it and why: incremental ADS, so that a change costs what changed; the node (61 KB) on the first
message of a stream only; a reconnect back-off of at most 1 s, since Envoy's default can leave a proxy on its
own for 20 s after a restart; a short wait for the first clusters, so that an Envoy that boots without us
answers 503 instead of nothing; load reports, from which errors and requests in flight are counted; keepalive,
so that a dead connection is noticed.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/bootstrap/v3/bootstrap.proto
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML

UPSTREAM = "gpuxds"
"""Name of the cluster through which Envoy reaches the control plane."""
GUARD_LAYER = "guard"
"""Name of the runtime layer in which a guard is told its limit."""
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What differs from proxy to proxy."""

    node_id: str
    server: tuple[str, int]
    """Host and port of the control plane."""
    node_cluster: str = "gpuxds"
    metadata: dict[str, str] = field(default_factory=dict)
    admin: tuple[str, int] = ("127.0.0.1", 9901)
    state_of_the_world: bool = False
    ca_file: str | None = None
    """Certificates the control plane's is checked against; None: no TLS."""
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    """Name the control plane's certificate must bear; None: its host."""
    sds_dir: str | None = None
    """Directory of the files of `sds_files`; None: certificates are read once, at Envoy's start."""
    token: str | None = None
    guarded: str | None = None
    """Id of the endpoint it guards; None: it is a proxy that balances."""


GUARD_HEADER = """\
# The guard of endpoint {endpoint}. Run it beside the engine, with one worker:
#   envoy -c FILE --concurrency 1 --drain-strategy immediate --use-dynamic-base-id
# With that strategy an edit of the policy reaches connections that are open with their next request. With an id
# that is drawn several Envoys run on one host, each with an admin page of its own (gpuxds bootstrap --envoy-admin).
# With more workers the limit holds too, but for two requests that come within the same microsecond, and requests
# that wait stand in a line per worker.
"""


def render(options: BootstrapOptions) -> str:
    """The bootstrap as YAML."""
    header = GUARD_HEADER.format(endpoint=options.guarded) if options.guarded is not None else ""
    return header + dumped(document(options))


def dumped(content: dict[str, Any]) -> str:
    """Plain values as block-style YAML."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 200
    yaml.representer.ignore_aliases = lambda _: True
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def document(options: BootstrapOptions) -> dict[str, Any]:
    """The bootstrap as plain values."""
    node: dict[str, Any] = {"id": options.node_id, "cluster": options.node_cluster}
    role = {"role": "guard", "endpoint": options.guarded} if options.guarded is not None else {}
    if options.metadata or role:
        node["metadata"] = {**options.metadata, **role}
    made = {
        "node": node,
        "admin": {"address": socket_address(options.admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC" if options.state_of_the_world else "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [grpc_service()],
            },
            "cds_config": from_ads(),
            "lds_config": from_ads(),
        },
    }
    parts = guard_parts() if options.guarded is not None else proxy_parts()
    return made | parts | {"static_resources": {"clusters": [control_plane(options)]}}


def proxy_parts() -> dict[str, Any]:
    """What only a proxy has: it reports the load it sends."""
    report = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [grpc_service()]}
    return {"cluster_manager": {"load_stats_config": report}}


def guard_parts() -> dict[str, Any]:
    """What only a guard has: listeners inside itself, and a limit that changes in place. It reports no load, since
    the proxies count its requests already."""
    kind = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    extension = {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": kind}}
    layer = {"name": GUARD_LAYER, "rtds_layer": {"name": GUARD_LAYER, "rtds_config": from_ads()}}
    return {"bootstrap_extensions": [extension], "layered_runtime": {"layers": [layer]}}


def from_ads() -> dict[str, Any]:
    """Resources over the one stream, waited for at Envoy's start, but not for long."""
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}


def grpc_service() -> dict[str, Any]:
    """How Envoy calls us, and calls again."""
    back_off = {"base_interval": "0.1s", "max_interval": "1s"}
    return {"envoy_grpc": {"cluster_name": UPSTREAM, "retry_policy": {"retry_back_off": back_off}}}


def control_plane(options: BootstrapOptions) -> dict[str, Any]:
    """The cluster that is the control plane."""
    host, port = options.server
    endpoint = {"endpoint": {"address": socket_address((host, port))}}
    keepalive = {"interval": "10s", "timeout": "5s"}
    protocol: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    if options.token:
        protocol["http_filters"] = bearer(options.token)
    cluster: dict[str, Any] = {
        "name": UPSTREAM,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "load_assignment": {"cluster_name": UPSTREAM, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if options.ca_file:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls(options)}
    return cluster


def bearer(token: str) -> list[dict[str, Any]]:
    """Filters that add the token to every call through the cluster: discovery, load reports and access logs, the
    last of which are configured by us, who should not have to send a secret to have it sent back."""
    filters = "type.googleapis.com/envoy.extensions.filters.http"
    header = {"key": "authorization", "value": f"Bearer {token}"}
    added = {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    mutations = {"request_mutations": [added]}
    return [
        {
            "name": "token",
            "typed_config": {"@type": f"{filters}.header_mutation.v3.HeaderMutation", "mutations": mutations},
        },
        {"name": "codec", "typed_config": {"@type": f"{filters}.upstream_codec.v3.UpstreamCodec"}},
    ]


def tls(options: BootstrapOptions) -> dict[str, Any]:
    """TLS to the control plane; with `sds_dir` through files that Envoy watches, so that they may rotate."""
    context: dict[str, Any]
    if options.sds_dir:
        context = {"validation_context_sds_secret_config": watched(options.sds_dir, "ca")}
    else:
        context = {"validation_context": authority(options)}
    if options.cert_file and options.sds_dir:
        context["tls_certificate_sds_secret_configs"] = [watched(options.sds_dir, "certificate")]
    elif options.cert_file:
        context["tls_certificates"] = [certificate(options)]
    name = options.server_name or options.server[0]
    return {"@type": f"{TLS}.UpstreamTlsContext", "sni": name, "common_tls_context": context}


def sds_files(options: BootstrapOptions) -> dict[str, str]:
    """File name -> content of the secrets a bootstrap with `sds_dir` refers to; renames into place are seen."""
    found = {"ca": {"validation_context": authority(options)}}
    if options.cert_file:
        found["certificate"] = {"tls_certificate": certificate(options)}
    for secret in found.values():
        for content in secret.values():
            content["watched_directory"] = {"path": str(PurePath(options.ca_file or "/").parent)}
    return {
        f"{name}.yaml": dumped({"resources": [{"@type": f"{TLS}.Secret", "name": name, **secret}]})
        for name, secret in found.items()
    }


def authority(options: BootstrapOptions) -> dict[str, Any]:
    """Whom to trust, and the name the certificate must bear."""
    name = options.server_name or options.server[0]
    kinds = [{"san_type": kind, "matcher": {"exact": name}} for kind in ("DNS", "IP_ADDRESS")]
    return {"trusted_ca": {"filename": options.ca_file}, "match_typed_subject_alt_names": kinds}


def certificate(options: BootstrapOptions) -> dict[str, Any]:
    """The proxy's own certificate."""
    return {
        "certificate_chain": {"filename": options.cert_file},
        "private_key": {"filename": options.key_file},
    }


def watched(directory: str, name: str) -> dict[str, Any]:
    """A secret in a file that Envoy watches."""
    path = {"path": str(PurePath(directory) / f"{name}.yaml")}
    return {"name": name, "sds_config": {"path_config_source": path, "resource_api_version": "V3"}}


def socket_address(address: tuple[str, int]) -> dict[str, Any]:
    """An address the way Envoy writes it."""
    return {"socket_address": {"address": address[0], "port_value": address[1]}}
