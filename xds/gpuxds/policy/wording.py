"""Turns pydantic's errors into plain words: what is wrong, what is allowed, and what was probably meant."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gpuxds.policy.model import PoolSpec
from gpuxds.policy.positions import Path
from gpuxds.policy.strategies import NAMES, Parameters

EXPECTED: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a name or a mapping with `name`",
    "finite_number": "must be a finite number",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entry",
}


def without_tags(location: tuple[str | int, ...]) -> Path:
    """The path in the file: pydantic puts the strategy's name into the location, the file does not have it."""
    parts: list[str | int] = []
    for part in location:
        if (parts and parts[-1] == "strategy" and part in NAMES) or part == "[key]":
            continue
        parts.append(part)
    return tuple(parts)


def sentence(error: ErrorDetails, root: type[BaseModel]) -> str:
    """What is wrong, in one line."""
    kind, context = error["type"], error.get("ctx", {})
    found = error["input"]
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return unknown("unknown key", name, sorted(model_at(root, error["loc"][:-1]).model_fields))
    if kind == "missing":
        return "is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name = found.get("name", "") if isinstance(found, Mapping) else found
        return unknown("no such strategy:", str(name), NAMES)
    if kind == "literal_error":
        if repr(found) != str(found) and str(found) in str(context["expected"]):
            return f"{found!r} is text; write {found} without quotes"
        allowed = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ",").split(",")]
        return unknown("not allowed:", str(found), allowed)
    if kind == "value_error":
        return str(context["error"])
    text = EXPECTED.get(kind)
    return f"{found!r} {text.format(**context)}" if text else f"{found!r}: {error['msg']}"


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """`unknown key 'capcity'; did you mean 'capacity'? allowed: ...`."""
    names = list(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"{what} {name!r};{hint} allowed: {', '.join(names)}"


def model_at(root: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    """The model that reads the mapping at `location`."""
    model = root
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            found = list(models_in(model.model_fields[part].annotation))
            if found:
                model = found[0]
        elif part in NAMES:
            model = strategy_model(str(part))
    return model


def models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """Pydantic models named by an annotation, through lists, dicts, options and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    if typing.get_origin(annotation) in (list, dict, typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from models_in(argument)


def strategy_model(name: str) -> type[Parameters]:
    """The parameters of a strategy."""
    for model in models_in(PoolSpec.model_fields["strategy"].annotation):
        if issubclass(model, Parameters) and model.model_fields["name"].default == name:
            return model
    raise KeyError(name)
