"""Where endpoints come from: the policy itself, file_sd files, and DNS for those with host names.

Each source keeps its last good answer, so that a file that is being written, or a name server that is down,
takes no endpoint out. `build` merges them into one fleet.
"""

from __future__ import annotations

import glob
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpuxds.errors import FleetError, Problem
from gpuxds.files import read_text
from gpuxds.fleet.endpoint import Endpoint, Fleet
from gpuxds.fleet.file_sd import parse
from gpuxds.fleet.roster import merge, resolved
from gpuxds.policy.build import endpoints as policy_endpoints
from gpuxds.policy.build import endpoints_of_targets
from gpuxds.policy.loader import Loaded
from gpuxds.policy.model import PoolSpec, PriorSpec


@dataclass(slots=True)
class Sources:
    """The last good answer of every source."""

    files: dict[tuple[str, str], tuple[Endpoint, ...]] = field(default_factory=dict)
    """(pool, path) -> endpoints of that file_sd file."""
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Host name -> addresses of the last lookup that succeeded."""
    failed: set[str] = field(default_factory=set)
    """Host names whose lookup has failed; asked again on the timer like all others."""
    problems: tuple[Problem, ...] = ()

    def patterns(self, loaded: Loaded) -> tuple[Path, ...]:
        """Paths and globs of the policy's file_sd files, absolute."""
        return tuple(
            loaded.base_dir / pattern
            for pool in loaded.policy.pools
            if pool.file_sd is not None
            for pattern in pool.file_sd.files
        )

    def build(self, loaded: Loaded, previous: Fleet, registered: tuple[Endpoint, ...] = ()) -> Fleet:
        """Read the files again and merge everything; `previous` supplies addresses already resolved."""
        problems: list[Problem] = []
        read = {(pool.name, path) for pool in loaded.policy.pools for path in files_of(pool, loaded.base_dir)}
        pools = {pool.name: pool for pool in loaded.policy.pools}
        for name, path in sorted(read):
            problems += self.read(pools[name], path, loaded.policy.gpu_models)
        self.files = {key: found for key, found in self.files.items() if key in read}
        groups = [policy_endpoints(loaded.policy), *self.files.values(), registered]
        fleet, duplicates = merge(groups)
        self.problems = (*problems, *duplicates)
        return self.address(carry_addresses(fleet, previous))

    def read(self, pool: PoolSpec, path: str, gpu_models: Mapping[str, PriorSpec]) -> tuple[Problem, ...]:
        """Take over one file's endpoints; its last good answer stays when it cannot be used."""
        try:
            text = read_text(Path(path))
            found, problems = endpoints_of_targets(pool, parse(text, path), f"file_sd:{path}", gpu_models)
        except (OSError, UnicodeDecodeError, FleetError) as error:
            return (Problem(path, 0, 0, "", f"{error}; its last good targets stay in force"),)
        self.files[(pool.name, path)] = found
        return problems

    def hosts(self, fleet: Fleet) -> list[str]:
        """Host names that need a lookup."""
        return sorted({e.host for e in fleet.endpoints if not is_address(e.host)})

    def unknown(self, fleet: Fleet) -> list[str]:
        """Host names that were never looked up with success nor in vain."""
        return [host for host in self.hosts(fleet) if host not in self.answers and host not in self.failed]

    def learn(self, answers: Mapping[str, tuple[str, ...]]) -> None:
        """Keep the lookups that succeeded, and remember which did not."""
        self.answers.update({host: found for host, found in answers.items() if found})
        self.failed |= {host for host, found in answers.items() if not found}

    def address(self, fleet: Fleet) -> Fleet:
        """The fleet with every address that is known."""
        return resolved(fleet, self.answers)


def files_of(pool: PoolSpec, base_dir: Path) -> set[str]:
    """Files a pool reads: those its globs match now, and those it names outright."""
    if pool.file_sd is None:
        return set()
    paths = [str(base_dir / pattern) for pattern in pool.file_sd.files]
    return {match for path in paths for match in glob.glob(path) or ([] if glob.has_magic(path) else [path])}


def carry_addresses(fleet: Fleet, previous: Fleet) -> Fleet:
    """Endpoints that were resolved before keep their address while their host name is the same."""
    known = {(e.id, e.host): e.ip for e in previous.endpoints}
    return Fleet(
        tuple(
            replace(e, ip=known[(e.id, e.host)]) if e.ip is None and (e.id, e.host) in known else e
            for e in fleet.endpoints
        )
    )


def is_address(host: str) -> bool:
    """Whether a host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
