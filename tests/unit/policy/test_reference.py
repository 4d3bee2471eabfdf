"""policies/README.md describes the policy as it is: every field, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpuxds.assets import asset
from gpuxds.policy import model, requests, strategies
from gpuxds.policy.base import Model
from gpuxds.policy.strategies import NAMES, Parameters
from gpuxds.policy.units import parse_duration

TEXT = asset("policies", "README.md").read_text()


def models() -> list[type[BaseModel]]:
    found = [*vars(model).values(), *vars(requests).values(), *vars(strategies).values()]
    kinds = dict.fromkeys(kind for kind in found if isinstance(kind, type) and issubclass(kind, Model | Parameters))
    return [kind for kind in kinds if kind not in (Model, Parameters)]


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    for kind in models():
        for name, info in kind.model_fields.items():
            if not (issubclass(kind, Parameters) and name == "name"):
                yield kind.__name__, name, info


def section(name: str) -> str:
    """The part of the document under the heading with this anchor comment."""
    found = re.search(rf"<!-- {name} -->(.*?)(?=<!-- \w+ -->|\Z)", TEXT, re.DOTALL)
    assert found, f"policies/README.md has no section for {name}"
    return found[1]


@pytest.mark.parametrize(("kind", "name", "info"), list(fields()), ids=[f"{k}.{n}" for k, n, _ in fields()])
def test_every_field_is_described_with_its_default(kind: str, name: str, info: FieldInfo) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", section(kind), re.MULTILINE)
    assert row, f"{kind}.{name} is missing"
    default, meaning = (cell.strip() for cell in row[1].split("|")[:2])
    assert default == written(info), f"{kind}.{name}: the document says {default}"
    assert len(meaning) > 15


def written(info: FieldInfo) -> str:
    """A default as the document writes it."""
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "–"
    if any(getattr(item, "func", None) is parse_duration for item in info.metadata):
        return f"`{duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ([], {}):
        return "none"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def duration(seconds: float) -> str:
    if seconds and seconds < 1:
        return f"{1000 * seconds:g}ms"
    return f"{seconds:g}s"


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_is_described_with_what_the_simulation_found(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", section("Strategies"), re.MULTILINE)
    assert row, f"strategy {name} is missing"
    assert len([cell for cell in row[1].split("|") if cell.strip()]) >= 3
