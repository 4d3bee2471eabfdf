"""What the real Envoy says of the configuration a policy becomes, with the place in the policy it stems from.

Everything is validated at once. When Envoy refuses it, each pool is tried alone, so that every pool at fault is
named and not only the first that Envoy came upon; Envoy's own words name the field, and a few of them lead back to
the policy's. Guards run in Envoys of their own and are shown in a bootstrap of their own; when that is refused,
each of them is tried alone.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from gpuxds.assets import envoy_binary
from gpuxds.engine.publisher import Publisher
from gpuxds.engine.sources import Sources
from gpuxds.errors import EnvironmentProblem, Problem
from gpuxds.files import read_text
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.loader import Loaded
from gpuxds.policy.positions import Path, dotted, place, read
from gpuxds.policy.slices import slices_of
from gpuxds.snapshot.groups import ALL
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, ResourceSet
from gpuxds.snapshot.static import static_bootstrap
from gpuxds.snapshot.static_guards import samples, static_guards

TIMEOUT_S = 30.0
LONGEST = 600
"""Characters of Envoy's words that are shown."""
SAID = re.compile(r"error initializing configuration '[^']*': (.*?)\s*$", re.DOTALL)
BROKEN_RULE = re.compile(r"Proto constraint validation failed .*", re.DOTALL)
NESTED = ": embedded message failed validation | caused by "
FIELDS: Mapping[str, Path] = {
    "PrefixRewrite": ("match", "rewrite"),
    "RouteMatchValidationError": ("match", "prefix"),
    "HashPolicy": ("strategy",),
    "LoadBalancingPolicy": ("strategy",),
    "BaseEjectionTime": ("outlier_detection", "base_ejection_time"),
    "OutlierDetection": ("outlier_detection",),
    "RetryBackOff": ("retries", "back_off"),
    "RetryPolicy": ("retries",),
    "CircuitBreakers": ("retries",),
    "ConnectTimeout": ("timeouts", "connect"),
    "IdleTimeout": ("timeouts", "idle"),
}
"""A word of Envoy's -> the field of a pool it stems from; the first that is found counts."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What Envoy will not have."""

    path: Path
    """The field of the policy it stems from; empty for the policy as a whole."""
    what: str
    """Which part of the configuration, for people."""
    words: str
    """Envoy's own."""


def told(loaded: Loaded) -> tuple[Fleet, Mapping[str, ResourceSet]]:
    """The fleet of a policy and what every proxy would be told of it, as the server makes it."""
    policy, fleet = loaded.policy, Sources().build(loaded, Fleet())
    slices = [part for pool in policy.pools for part in slices_of(pool, fleet.pool(pool.name), ())]
    publisher = Publisher()
    publisher.configure(policy, fleet, slices, 0.0)
    return fleet, publisher.config[ALL]


def refusals(loaded: Loaded, file: FilePath) -> list[Problem]:
    """What Envoy refuses; empty when it takes everything. Raises EnvironmentProblem without a binary."""
    binary = envoy_binary()
    fleet, sets = told(loaded)
    found = [*of_proxies(binary, loaded, sets), *of_guards(binary, loaded, fleet)]
    if not found:
        return []
    document = read(read_text(file), str(file))
    return [
        Problem(
            str(file), *place(document, each.path), dotted(each.path), f"Envoy refuses {each.what}: {each.words}"
        )
        for each in found
    ]


def of_proxies(binary: FilePath, loaded: Loaded, sets: Mapping[str, ResourceSet]) -> Iterator[Refusal]:
    """What Envoy refuses of that which proxies are told."""
    whole = refused(binary, static_bootstrap(sets))
    if not whole:
        return
    pools = range(len(loaded.policy.pools))
    alone = {index: refused(binary, static_bootstrap(told(only(loaded, index))[1])) for index in pools}
    blamed = {index: words for index, words in alone.items() if words}
    if not blamed or (len(blamed) == len(pools) > 1 and len(set(blamed.values())) == 1):
        yield Refusal((), "it", whole)
        return
    for index, words in blamed.items():
        yield Refusal(("pools", index, *field_of(words)), "it", words)


def of_guards(binary: FilePath, loaded: Loaded, fleet: Fleet) -> Iterator[Refusal]:
    """What Envoy refuses of that which guards are told; one guard is named for each pool at fault."""
    shown = samples(loaded.policy, fleet)
    whole = refused(binary, static_guards(shown)) if shown else ""
    if not whole:
        return
    blamed: dict[int, Refusal] = {}
    for sample in shown:
        words = "" if sample.pool in blamed else refused(binary, static_guards([sample]))
        if words:
            what = f"the guard of endpoint {sample.endpoint.id} (capacity {sample.endpoint.capacity})"
            blamed[sample.pool] = Refusal(("pools", sample.pool, "guard"), what, words)
    yield from blamed.values() or [Refusal((), "its guards together", whole)]


def only(loaded: Loaded, index: int) -> Loaded:
    """The same with one pool."""
    pool = loaded.policy.pools[index]
    policy = loaded.policy.model_copy(update={"pools": [pool], "node_groups": []})
    return Loaded(policy, loaded.warnings, loaded.digest, loaded.base_dir)


def refused(binary: FilePath, content: bytes) -> str:
    """What Envoy has against a serialised bootstrap, in its own words; empty when it takes it."""
    with tempfile.TemporaryDirectory() as folder:
        bootstrap = FilePath(folder) / "bootstrap.pb"
        bootstrap.write_bytes(content)
        run = asked(binary, "--mode", "validate", "--log-level", "warning", "-c", str(bootstrap))
    if run.returncode == 0:
        return ""
    said = SAID.search(run.stderr)
    words = said[1] if said else run.stderr or f"it ended with status {run.returncode} and said nothing"
    rule = BROKEN_RULE.search(words)
    text = " ".join((rule[0] if rule else words).split()).replace(NESTED, " > ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def field_of(words: str) -> Path:
    """The field of a pool that Envoy's words are about; empty for the pool as a whole."""
    return next((path for word, path in FIELDS.items() if word in words), ())


def accepted(loaded: Loaded) -> str:
    """What was looked at, for a policy that Envoy takes."""
    fleet, sets = told(loaded)
    clusters, listeners = (len(sets[kind].resources) for kind in (CLUSTER, LISTENER))
    version = re.search(r"/(\d+\.\d+\.\d+)/", asked(envoy_binary(), "--version").stdout)
    name = f"Envoy {version[1]}" if version else "Envoy"
    tables = f"{len(sets[ROUTES].resources)} route tables{guards(loaded, fleet)}"
    return f"{name} accepts it: {clusters} clusters, {listeners} listeners, {tables}"


def guards(loaded: Loaded, fleet: Fleet) -> str:
    """How many guards were shown, and for how many they stand; empty for a policy without guards."""
    shown = len(samples(loaded.policy, fleet))
    behind = sum(len(fleet.pool(pool.name)) for pool in loaded.policy.pools if pool.guard is not None)
    return f"; guards: {shown} shown, for {behind} endpoint{'s' if behind != 1 else ''}" if shown else ""


def asked(binary: FilePath, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the binary answers. Raises EnvironmentProblem when it cannot be run."""
    try:
        return subprocess.run(
            [str(binary), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"{binary} cannot be asked: {error}") from error
