"""What can be wrong between fields: each check yields findings with the path they concern.

An error would make Envoy or the decision misbehave; a warning is something a careful colleague would ask
about. A memory size that contradicts its GPU model is an error, because tiers and priors follow from it.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from gpuxds.policy.build import guard_port, is_ip, split_address
from gpuxds.policy.finding import Finding
from gpuxds.policy.gpus import PRIORS, memory_of
from gpuxds.policy.model import EndpointSpec, EngineSignals, GpuSpec, Policy, PoolSpec
from gpuxds.policy.positions import Path, dotted
from gpuxds.policy.request_checks import (
    estimates_are_told_by_a_header_for_it,
    guards_and_tries_fit,
    priorities_can_be_trusted,
    tenants_can_be_told_apart,
    tries_make_sense,
)
from gpuxds.policy.strategies import ConsistentHash

MEMORY_TOLERANCE = 0.15


def findings(policy: Policy) -> list[Finding]:
    """Everything found, in the order of the file's sections."""
    return [finding for check in CHECKS for finding in check(policy)]


def pools_are_distinct(policy: Policy) -> Iterator[Finding]:
    """Names and prefixes tell pools apart."""
    names: dict[str, int] = {}
    prefixes: dict[str, int] = {}
    for index, pool in enumerate(policy.pools):
        first = names.setdefault(pool.name, index)
        if first != index:
            yield Finding(("pools", index, "name"), f"{pool.name!r} is the name of pools[{first}] too")
        other = prefixes.setdefault(pool.match.prefix, index)
        if other != index:
            text = f"prefix {pool.match.prefix!r} is pools[{other}]'s too; that pool would take every request"
            yield Finding(("pools", index, "match", "prefix") if "match" in pool.model_fields_set else
                          ("pools", index, "name"), text)  # fmt: skip


def pools_have_endpoints(policy: Policy) -> Iterator[Finding]:
    """A pool without endpoints or sources answers everything with 503."""
    for index, pool in enumerate(policy.pools):
        if not pool.endpoints and pool.file_sd is None:
            yield Finding(("pools", index), f"pool {pool.name!r} has no endpoints; give `endpoints` or `file_sd`")


def endpoints_are_distinct(policy: Policy) -> Iterator[Finding]:
    """Ids are unique everywhere, addresses within a pool."""
    ids: dict[str, Path] = {}
    addresses: dict[tuple[str, tuple[str, int] | str], Path] = {}
    elsewhere: dict[tuple[str, int] | str, str] = {}
    for path, pool, endpoint in stated(policy):
        first = ids.setdefault(endpoint.id, path)
        if first != path:
            yield Finding((*path, "id"), f"{endpoint.id!r} is the id of {dotted(first)} too; ids are unique")
        place = place_of(endpoint.address)
        other = addresses.setdefault((pool.name, place), path)
        owner = elsewhere.setdefault(place, pool.name)
        if other != path:
            yield Finding((*path, "address"), f"{endpoint.address!r} is the address of {dotted(other)} too")
        elif owner != pool.name:
            text = f"{endpoint.address!r} is also in pool {owner!r}; each pool counts its load for itself"
            yield Finding((*path, "address"), text, "warning")


def place_of(address: str) -> tuple[str, int] | str:
    """Host and port, however the address is written; the text of one that cannot be used."""
    try:
        return split_address(address)
    except ValueError:
        return address


def addresses_are_usable(policy: Policy) -> Iterator[Finding]:
    """Addresses and URLs have the form they need."""
    for path, _, endpoint in stated(policy):
        try:
            split_address(endpoint.address)
        except ValueError as error:
            yield Finding((*path, "address"), str(error))
        for name in ("engine", "gpu", "health"):
            url = getattr(endpoint.metrics, name)
            if url is not None and not is_url(url):
                text = f"{url!r} is not a URL; write http://host:port/path"
                yield Finding((*path, "metrics", name), text)


def is_url(text: str) -> bool:
    """Whether a text is an address of a page."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def envoy_takes_it(policy: Policy) -> Iterator[Finding]:
    """What Envoy would reject although every field by itself is fine."""
    try:
        ipaddress.ip_address(policy.listener.address)
    except ValueError:
        text = f"{policy.listener.address!r} is not an IP address; Envoy's listener binds addresses, not names"
        yield Finding(("listener", "address"), text)
    for index, pool in enumerate(policy.pools):
        if pool.timeouts.connect <= 0:
            yield Finding(("pools", index, "timeouts", "connect"), "must be longer than 0s")
        if pool.outlier_detection.base_ejection_time <= 0:
            yield Finding(("pools", index, "outlier_detection", "base_ejection_time"), "must be longer than 0s")
        rewrite = pool.match.rewrite
        if rewrite is not None and rewrite.endswith("/") != pool.match.prefix.endswith("/"):
            text = f"prefix {pool.match.prefix!r} and rewrite {rewrite!r} must both end with / or both not"
            yield Finding(("pools", index, "match", "rewrite"), text)


def gpus_are_known(policy: Policy) -> Iterator[Finding]:
    """A GPU model brings priors; an unknown one must say its memory, and one contradicted is refused."""
    for path, _, endpoint in stated(policy):
        yield from gpu_findings(policy, (*path, "gpu"), endpoint.gpu, has_capacity=endpoint.capacity is not None)
    for index, pool in enumerate(policy.pools):
        if pool.file_sd and pool.file_sd.gpu:
            place = ("pools", index, "file_sd", "gpu")
            yield from gpu_findings(policy, place, pool.file_sd.gpu, has_capacity=pool.file_sd.capacity is not None)


def gpu_findings(policy: Policy, path: Path, gpu: GpuSpec, *, has_capacity: bool) -> Iterator[Finding]:
    """Findings on one GPU."""
    memory_gb = memory_of(gpu.model, policy.gpu_models)
    if memory_gb is not None:
        if gpu.memory_gb is not None and abs(gpu.memory_gb / memory_gb - 1) > MEMORY_TOLERANCE:
            text = (
                f"{gpu.memory_gb:g} contradicts model {gpu.model!r}, which has {memory_gb:g}; correct one of them"
            )
            yield Finding((*path, "memory_gb"), text)
        return
    names = [*PRIORS, *policy.gpu_models]
    close = difflib.get_close_matches(gpu.model.upper(), names, n=1)
    hint = f" did you mean {close[0]!r}?" if close else f" known: {', '.join(names)};"
    if gpu.memory_gb is None or not has_capacity:
        text = f"GPU model {gpu.model!r} is not known;{hint} give memory_gb and capacity, or add it to gpu_models"
        yield Finding((*path, "model"), text)
    else:
        text = f"GPU model {gpu.model!r} is not known;{hint} its speed is guessed from its memory"
        yield Finding((*path, "model"), text, "warning")


def large_requests_have_somewhere_to_run(policy: Policy) -> Iterator[Finding]:
    """A pool with large requests has, or may get, an endpoint with the memory."""
    for index, pool in enumerate(policy.pools):
        spec = pool.large_requests
        if spec is None or pool.file_sd:
            continue
        sizes_gb = [
            (endpoint.gpu.memory_gb or memory_of(endpoint.gpu.model, policy.gpu_models) or 0) * endpoint.gpu.count
            for endpoint in pool.endpoints
        ]
        if max(sizes_gb, default=0) < spec.min_memory_gb:
            text = (
                f"no endpoint of pool {pool.name!r} has {spec.min_memory_gb:g} GB; "
                "every large request would be answered with 503"
            )
            yield Finding(("pools", index, "large_requests"), text, "warning")


def hashes_have_a_key(policy: Policy) -> Iterator[Finding]:
    """Consistent hashing needs exactly one key."""
    for index, pool in enumerate(policy.pools):
        if isinstance(pool.strategy, ConsistentHash):
            cookie, header = pool.strategy.cookie, pool.strategy.header
            if cookie and "header" in pool.strategy.model_fields_set and header:
                yield Finding(("pools", index, "strategy"), "header and cookie are both given; give one")
            elif not cookie and not header:
                yield Finding(("pools", index, "strategy"), "no key to hash; give header or cookie")


def signals_make_sense(policy: Policy) -> Iterator[Finding]:
    """Cadence, timeouts and ages fit together."""
    sections: tuple[tuple[str, EngineSignals], ...] = (
        ("engine", policy.signals.engine),
        ("gpu", policy.signals.gpu),
    )
    for name, spec in sections:
        path: Path = ("signals", name)
        if spec.interval < 0.05:
            yield Finding((*path, "interval"), f"{spec.interval:g} s is too often; give at least 50ms")
        if spec.timeout <= 0:
            yield Finding((*path, "timeout"), "must be longer than 0s")
        if spec.stale_after <= spec.interval:
            text = f"{spec.stale_after:g} s is not above the interval of {spec.interval:g} s: all would be stale"
            yield Finding((*path, "stale_after"), text)
        if spec.absent_after < spec.stale_after:
            yield Finding((*path, "absent_after"), "must not be below stale_after")
        if spec.interval > 5 and name == "engine":
            text = "above 5 s weights follow load too late; in simulation 15 s cost a quarter of goodput"
            yield Finding((*path, "interval"), text, "warning")


def groups_name_pools(policy: Policy) -> Iterator[Finding]:
    """Node groups select something and refer to pools that exist."""
    names = {pool.name for pool in policy.pools}
    first: dict[str, int] = {}
    for index, group in enumerate(policy.node_groups):
        if first.setdefault(group.name, index) != index:
            text = f"{group.name!r} is the name of node_groups[{first[group.name]}] too"
            yield Finding(("node_groups", index, "name"), text)
        if group.cluster is None and not group.metadata:
            text = f"group {group.name!r} selects no proxy; give cluster or metadata"
            yield Finding(("node_groups", index), text)
        if group.name.startswith("guard:"):
            yield Finding(("node_groups", index, "name"), "names that begin with 'guard:' are those of guards")
        if group.name == "all":
            yield Finding(("node_groups", index, "name"), "'all' is the group of proxies that match no other")
        for position, pool in enumerate(group.pools):
            if pool not in names:
                close = difflib.get_close_matches(pool, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; pools: {', '.join(sorted(names))}"
                yield Finding(("node_groups", index, "pools", position), f"no pool {pool!r}{hint}")


def guards_have_ports(policy: Policy) -> Iterator[Finding]:
    """A guard listens where nothing else does."""
    engines = {place_of(endpoint.address): dotted(path) for path, _, endpoint in stated(policy)}
    for path, pool, endpoint in stated(policy):
        place = place_of(endpoint.address)
        if pool.guard is None or isinstance(place, str):
            continue
        try:
            port = guard_port(pool, place[1])
        except ValueError as error:
            yield Finding((*path, "address"), str(error))
            continue
        if port is not None and (place[0], port) in engines:
            other = engines[(place[0], port)]
            text = f"its guard would listen on port {port}, the address of {other}; give another guard.port_offset"
            yield Finding((*path, "address"), text)


def guards_are_usable(policy: Policy) -> Iterator[Finding]:
    """What a guard's Envoy would reject or never do."""
    for index, pool in enumerate(policy.pools):
        if pool.guard is None:
            continue
        if not is_ip(pool.guard.address):
            text = f"{pool.guard.address!r} is not an IP address; Envoy's listener binds addresses, not names"
            yield Finding(("pools", index, "guard", "address"), text)
        if pool.guard.queue is not None and pool.guard.queue.timeout <= 0:
            text = "must be longer than 0s; leave queue out when requests shall not wait"
            yield Finding(("pools", index, "guard", "queue", "timeout"), text)


def stated(policy: Policy) -> Iterator[tuple[Path, PoolSpec, EndpointSpec]]:
    """Every endpoint the policy states, with its path."""
    for index, pool in enumerate(policy.pools):
        for position, endpoint in enumerate(pool.endpoints):
            yield ("pools", index, "endpoints", position), pool, endpoint


CHECKS: tuple[Callable[[Policy], Iterator[Finding]], ...] = (
    pools_are_distinct,
    pools_have_endpoints,
    endpoints_are_distinct,
    addresses_are_usable,
    envoy_takes_it,
    tries_make_sense,
    estimates_are_told_by_a_header_for_it,
    gpus_are_known,
    large_requests_have_somewhere_to_run,
    tenants_can_be_told_apart,
    hashes_have_a_key,
    signals_make_sense,
    groups_name_pools,
    guards_have_ports,
    guards_are_usable,
    guards_and_tries_fit,
    priorities_can_be_trusted,
)
