"""Where endpoints come from: the policy itself, file_sd files, and DNS for those with host names.

Each source keeps its last good answer, so that a file that is being written, or a name server that is down,
takes no endpoint out. `build` merges them into one fleet. It is asked twice a second, and a fleet of a thousand
takes tens of milliseconds to build, so it compares what the sources say first: as long as that is the same, so is
the fleet.
"""

from __future__ import annotations

import glob
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
from gpuxds.policy.model import PoolSpec

Key = tuple[str, str]
"""Pool and path of a file_sd file."""


@dataclass(frozen=True, slots=True)
class Said:
    """Everything a fleet is built from."""

    loaded: Loaded
    texts: Mapping[Key, str | Problem]
    """Content of each file_sd file, or why it cannot be read."""
    registered: tuple[Endpoint, ...]

    def same(self, other: Said | None) -> bool:
        """Whether nothing is new; a policy that was loaded again counts as new."""
        return (
            other is not None
            and self.loaded is other.loaded
            and self.texts == other.texts
            and self.registered == other.registered
        )


@dataclass(slots=True)
class Sources:
    """The last good answer of every source."""

    files: dict[Key, tuple[Endpoint, ...]] = field(default_factory=dict)
    """Endpoints of each file_sd file."""
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Host name -> addresses of the last lookup that succeeded."""
    failed: set[str] = field(default_factory=set)
    """Host names whose lookup has failed; asked again on the timer like all others."""
    problems: tuple[Problem, ...] = ()
    said: Said | None = None
    """What the last fleet was built from."""
    built: Fleet | None = None

    def patterns(self, loaded: Loaded) -> tuple[Path, ...]:
        """Paths and globs of the policy's file_sd files, absolute."""
        return tuple(
            loaded.base_dir / pattern
            for pool in loaded.policy.pools
            if pool.file_sd is not None
            for pattern in pool.file_sd.files
        )

    def build(self, loaded: Loaded, previous: Fleet, registered: tuple[Endpoint, ...] = ()) -> Fleet:
        """Read the files again and merge everything; `previous` supplies addresses already resolved, and is the
        answer when it was built from the same."""
        pools = {pool.name: pool for pool in loaded.policy.pools}
        read = {(name, path) for name, pool in pools.items() for path in files_of(pool, loaded.base_dir)}
        said = Said(loaded, {key: content(key[1]) for key in sorted(read)}, registered)
        if said.same(self.said) and previous is self.built:
            return previous
        problems = [
            p for (name, path), text in said.texts.items() for p in self.take(pools[name], path, text, loaded)
        ]
        self.files = {key: found for key, found in self.files.items() if key in read}
        fleet, duplicates = merge([policy_endpoints(loaded.policy), *self.files.values(), registered])
        self.problems = (*problems, *duplicates)
        fleet = self.address(carry_addresses(fleet, previous))
        self.said, self.built = said, previous if fleet == previous else fleet
        return self.built

    def take(self, pool: PoolSpec, path: str, text: str | Problem, loaded: Loaded) -> tuple[Problem, ...]:
        """Take over one file's endpoints; its last good answer stays when it cannot be used."""
        if isinstance(text, Problem):
            return (text,)
        try:
            groups = parse(text, path)
            found, problems = endpoints_of_targets(pool, groups, f"file_sd:{path}", loaded.policy.gpu_models)
        except FleetError as error:
            return (unusable(path, error),)
        self.files[(pool.name, path)] = found
        return problems

    def hosts(self, fleet: Fleet) -> list[str]:
        """Host names that need a lookup."""
        return sorted({e.host for e in fleet.endpoints if e.ip != e.host})

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


def content(path: str) -> str | Problem:
    """What a file says, or why it cannot be read."""
    try:
        return read_text(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        return unusable(path, error)


def unusable(path: str, error: Exception) -> Problem:
    """A file that changes nothing."""
    return Problem(path, 0, 0, "", f"{error}; its last good targets stay in force")


def carry_addresses(fleet: Fleet, previous: Fleet) -> Fleet:
    """Endpoints that were resolved before keep their address while their host name is the same."""
    known = {(e.id, e.host): e.ip for e in previous.endpoints}
    return Fleet(
        tuple(
            replace(e, ip=known[(e.id, e.host)]) if e.ip is None and (e.id, e.host) in known else e
            for e in fleet.endpoints
        )
    )
