"""From what the policy says to the fleet's endpoints: addresses split, URLs derived, capacities filled in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gpuxds.errors import Problem
from gpuxds.fleet.endpoint import Endpoint, Gpu, MetricsTargets
from gpuxds.fleet.file_sd import TargetGroup
from gpuxds.policy.gpus import default_capacity, known, memory_of, prior_of_model
from gpuxds.policy.model import ID_PATTERN, LARGEST_CAPACITY, GpuSpec, MetricsSpec, Policy, PoolSpec, PriorSpec

PATHS: Mapping[str, tuple[str, str]] = MappingProxyType({"vllm": ("/metrics", "/health")})
"""Engine -> (path of its metric page, path of its health check)."""

LARGEST_PORT = 65_535

LABELS = frozenset(
    {"id", "gpu_model", "gpu_memory_gb", "gpu_count", "capacity", "price_per_hour"}
    | {"metrics_url", "gpu_metrics_url", "health_url"}
)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ValueError with what is allowed."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 1 <= int(port) <= LARGEST_PORT:
        raise ValueError(f"{address!r} has no port; write host:port, for example 10.0.0.1:8000 or [::1]:8000")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if ":" in host:
        raise ValueError(f"{address!r} is ambiguous; write IPv6 addresses in brackets, for example [::1]:8000")
    if not host or any(character.isspace() or character == "/" for character in host):
        raise ValueError(f"{address!r} is not an address; write host:port without a scheme or path")
    return host.lower(), int(port)


def is_ip(host: str) -> bool:
    """Whether a host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def endpoints(policy: Policy) -> tuple[Endpoint, ...]:
    """The endpoints the policy itself states. The policy has been checked."""
    return tuple(
        endpoint_of(
            pool, spec.id, spec.address, spec.gpu, spec.capacity, spec.metrics, spec.labels, spec.price_per_hour,
            "policy", policy.gpu_models,
        )
        for pool in policy.pools
        for spec in pool.endpoints
    )  # fmt: skip


def endpoint_of(
    pool: PoolSpec,
    endpoint_id: str,
    address: str,
    gpu: GpuSpec,
    capacity: int | None,
    metrics: MetricsSpec,
    labels: Mapping[str, str],
    price_per_hour: float | None,
    source: str,
    gpu_models: Mapping[str, PriorSpec],
) -> Endpoint:
    """One endpoint. Raises ValueError when the address or the GPU cannot be used."""
    host, port = split_address(address)
    memory_gb = gpu.memory_gb or memory_of(gpu.model, gpu_models)
    if memory_gb is None:
        raise ValueError(f"GPU model {gpu.model!r} is not known; say its memory_gb")
    prior = prior_of_model(gpu.model, memory_gb, gpu_models)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    metrics_path, health_path = PATHS[pool.engine]
    return Endpoint(
        id=endpoint_id,
        pool=pool.name,
        host=host,
        port=port,
        gpu=Gpu(known(gpu.model) or gpu.model, memory_gb, gpu.count),
        capacity=capacity or default_capacity(prior) * gpu.count,
        metrics=MetricsTargets(
            metrics.engine or f"http://{place}{metrics_path}",
            metrics.gpu,
            MappingProxyType(dict(metrics.gpu_labels)),
            scraped=metrics.source == "scrape",
        ),
        health_url=metrics.health or f"http://{place}{health_path}",
        ip=host if is_ip(host) else None,
        price_per_hour=price_per_hour,
        labels=MappingProxyType(dict(labels)),
        source=source,
        guard_port=guard_port(pool, port),
    )


def guard_port(pool: PoolSpec, port: int) -> int | None:
    """Port of the guard of an endpoint with this port; None when the pool has no guards. Raises ValueError."""
    if pool.guard is None:
        return None
    if port + pool.guard.port_offset > LARGEST_PORT:
        raise ValueError(
            f"port {port} plus the guard's port_offset of {pool.guard.port_offset} is above {LARGEST_PORT}"
        )
    return port + pool.guard.port_offset


def endpoints_of_targets(
    pool: PoolSpec, groups: Sequence[TargetGroup], source: str, gpu_models: Mapping[str, PriorSpec]
) -> tuple[tuple[Endpoint, ...], tuple[Problem, ...]]:
    """Endpoints of file_sd target groups, and a problem for each target that cannot be used."""
    found: list[Endpoint] = []
    problems: list[Problem] = []
    for group in groups:
        for target in group.targets:
            try:
                found.append(endpoint_of_target(pool, target, group.labels, source, gpu_models))
            except ValueError as error:
                problems.append(Problem(source, group.line, 0, target, f"{error}; the target is left out"))
    return tuple(found), tuple(problems)


def endpoint_of_target(
    pool: PoolSpec, target: str, labels: Mapping[str, str], source: str, gpu_models: Mapping[str, PriorSpec]
) -> Endpoint:
    """One file_sd target. Raises ValueError with the label at fault."""
    default = pool.file_sd
    model = labels.get("gpu_model") or (default.gpu.model if default and default.gpu else None)
    if model is None:
        raise ValueError("no GPU model; give the label gpu_model, or file_sd.gpu in the policy")
    inherited = default.gpu if default and default.gpu and "gpu_model" not in labels else None
    memory_gb = number(labels, "gpu_memory_gb") or (inherited.memory_gb if inherited else None)
    count = number(labels, "gpu_count") or (inherited.count if inherited else 1)
    if count != int(count) or count > 64:
        raise ValueError(f"label gpu_count is {labels['gpu_count']!r}; it must be a whole number from 1 to 64")
    capacity = number(labels, "capacity", LARGEST_CAPACITY) or (default.capacity if default else None)
    endpoint_id = labels.get("id", target)
    if not re.fullmatch(ID_PATTERN, endpoint_id):
        raise ValueError(f"the id {endpoint_id!r} is not made of letters, digits and . _ : / @ [ ] - alone")
    metrics = MetricsSpec(
        engine=labels.get("metrics_url"), gpu=labels.get("gpu_metrics_url"), health=labels.get("health_url")
    )
    rest = {name: value for name, value in labels.items() if name not in LABELS and not name.startswith("__")}
    return endpoint_of(
        pool, endpoint_id, target, GpuSpec(model=model, memory_gb=memory_gb, count=int(count)),
        int(capacity) if capacity else None, metrics, rest, number(labels, "price_per_hour"), source, gpu_models,
    )  # fmt: skip


def number(labels: Mapping[str, str], name: str, largest: float = 1e9) -> float | None:
    """A label as a positive number of at most `largest`; None when it is not there. Raises ValueError."""
    if name not in labels:
        return None
    try:
        value = float(labels[name])
    except ValueError:
        value = -1.0
    if not 0 < value <= largest:
        raise ValueError(f"label {name} is {labels[name]!r}; it must be a positive number of at most {largest:g}")
    return value
