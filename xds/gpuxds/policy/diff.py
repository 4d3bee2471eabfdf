"""What differs between two policies, in sentences for the log line of a reload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpuxds.policy.model import Policy

KEYS = ("name", "id")
"""Fields that tell the members of a list apart."""


def changes(old: Policy | None, new: Policy) -> tuple[str, ...]:
    """Each change as `path: before -> after`; a single sentence for the first policy."""
    if old is None:
        endpoints = sum(len(pool.endpoints) for pool in new.pools)
        return (f"first policy: {len(new.pools)} pools, {endpoints} endpoints stated",)
    return tuple(differences("", old.model_dump(), new.model_dump()))


def differences(path: str, old: Any, new: Any) -> Iterator[str]:
    """Walk both documents together."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            yield from differences(f"{path}.{key}" if path else str(key), old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and (named_old := named(old)) is not None:
        named_new = named(new) or {}
        for key in sorted({*named_old, *named_new}):
            if key not in named_new:
                yield f"{path}: removed {key}"
            elif key not in named_old:
                yield f"{path}: added {key}"
            else:
                yield from differences(f"{path}[{key}]", named_old[key], named_new[key])
    else:
        yield f"{path}: {old} -> {new}"


def named(items: list[Any]) -> dict[str, Any] | None:
    """List members by name or id; None when they have none."""
    for key in KEYS:
        if all(isinstance(item, Mapping) and key in item for item in items):
            return {str(item[key]): item for item in items}
    return None
