"""What the real Envoy says of the configuration a policy becomes, with the place in the policy it stems from.

Everything is validated at once. When Envoy refuses it, each pool is tried alone, so that every pool at fault is
named and not only the first that Envoy came upon; Envoy's own words name the field, and a few of them lead back to
the policy's.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path as FilePath

from gpuxds.assets import envoy_binary
from gpuxds.engine.publisher import Publisher
from gpuxds.engine.sources import Sources
from gpuxds.errors import EnvironmentProblem, Problem
from gpuxds.files import read_text
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.loader import Loaded
from gpuxds.policy.model import Policy
from gpuxds.policy.positions import Path, dotted, place, read
from gpuxds.policy.slices import slices_of
from gpuxds.snapshot.groups import ALL
from gpuxds.snapshot.model import CLUSTER, LISTENER, ROUTES, ResourceSet
from gpuxds.snapshot.static import static_bootstrap

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


def told(loaded: Loaded) -> tuple[Policy, Mapping[str, ResourceSet]]:
    """The policy and what every proxy would be told of it, as the server makes it."""
    policy, fleet = loaded.policy, Sources().build(loaded, Fleet())
    slices = [part for pool in policy.pools for part in slices_of(pool, fleet.pool(pool.name), ())]
    publisher = Publisher()
    publisher.configure(policy, fleet, slices, 0.0)
    return policy, publisher.config[ALL]


def refusals(loaded: Loaded, file: FilePath) -> list[Problem]:
    """What Envoy refuses; empty when it takes everything. Raises EnvironmentProblem without a binary."""
    binary = envoy_binary()
    policy, sets = told(loaded)
    whole = refused(binary, sets)
    if not whole:
        return []
    alone = {index: refused(binary, told(only(loaded, index))[1]) for index in range(len(policy.pools))}
    blamed = {index: words for index, words in alone.items() if words}
    document = read(read_text(file), str(file))
    if not blamed or (len(blamed) == len(policy.pools) > 1 and len(set(blamed.values())) == 1):
        return [Problem(str(file), *place(document, ()), "", f"Envoy refuses it: {whole}")]
    found = []
    for index, words in blamed.items():
        path = ("pools", index, *field_of(words))
        found.append(Problem(str(file), *place(document, path), dotted(path), f"Envoy refuses it: {words}"))
    return found


def only(loaded: Loaded, index: int) -> Loaded:
    """The same with one pool."""
    pool = loaded.policy.pools[index]
    policy = loaded.policy.model_copy(update={"pools": [pool], "node_groups": []})
    return Loaded(policy, loaded.warnings, loaded.digest, loaded.base_dir)


def refused(binary: FilePath, sets: Mapping[str, ResourceSet]) -> str:
    """What Envoy has against these resources, in its own words; empty when it takes them."""
    with tempfile.TemporaryDirectory() as folder:
        bootstrap = FilePath(folder) / "bootstrap.pb"
        bootstrap.write_bytes(static_bootstrap(sets))
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
    _, sets = told(loaded)
    clusters, listeners = (len(sets[kind].resources) for kind in (CLUSTER, LISTENER))
    version = re.search(r"/(\d+\.\d+\.\d+)/", asked(envoy_binary(), "--version").stdout)
    name = f"Envoy {version[1]}" if version else "Envoy"
    return (
        f"{name} accepts it: {clusters} clusters, {listeners} listeners, {len(sets[ROUTES].resources)} route tables"
    )


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
