"""The API's description as OpenAPI 3.1, generated from the operations that are served and the types they use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from gpuxds.admin.answers import Problem
from gpuxds.admin.keys import Role

REF = "#/components/schemas/{model}"
WORDS = {
    400: "The request is not well formed.", 401: "No key, or one that is not known.",
    403: "The key may read only.", 404: "There is no such thing; the detail lists what there is.",
    409: "It would do harm now; the detail says why and how to go on all the same.",
    413: "The body is too long.", 422: "The body is not what it must be; the detail names the field.",
    503: "Nothing is known yet, or nothing can be had now; the detail says which.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: Literal["get", "post", "put", "delete"]
    path: str
    handler: Callable[[web.Request], Any]
    answer: type
    role: Role = Role.READ
    body: type[BaseModel] | None = None
    query: Mapping[str, str] | None = None
    """Name -> what it selects; all optional."""
    errors: tuple[int, ...] = ()
    status: int = 200
    """Of success."""
    streams: bool = False
    """Answers with server-sent events, each with `answer` as its data."""

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().splitlines()[0]


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpuxds",
            "version": version("gpuxds"),
            "description": "Live GPU stats become Envoy weights and health: what is in force, why, and drains.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"key": []}, {"bearer": []}, {}],
    }


def described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """One operation."""
    kind = "text/event-stream" if operation.streams else "application/json"
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.handler.__name__,
        "parameters": parameters(operation),
        "responses": {str(operation.status): response("As asked.", kind, reference(operation.answer, schemas))},
    }
    for status in sorted({401, 403, 503, *operation.errors} | ({413, 422} if operation.body else set())):
        schema = reference(Problem, schemas)
        found["responses"][str(status)] = response(WORDS[status], "application/problem+json", schema)
    if operation.body is not None:
        schema = reference(operation.body, schemas, mode="validation")
        found["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return found


def parameters(operation: Operation) -> list[dict[str, Any]]:
    """Parameters in the path and in the query."""
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    text = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": text} for name in in_path] + [
        {"name": name, "in": "query", "required": False, "description": what, "schema": {"type": "string"}}
        for name, what in (operation.query or {}).items()
    ]


def response(words: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A response with a body."""
    return {"description": words, "content": {kind: {"schema": schema}}}


def reference(
    kind: type, schemas: dict[str, Any], mode: Literal["serialization", "validation"] = "serialization"
) -> dict[str, Any]:
    """A reference to a type's schema, which is added to `schemas` with all it needs."""
    schema = TypeAdapter(kind).json_schema(mode=mode, ref_template=REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[kind.__name__] = schema
    return {"$ref": REF.format(model=kind.__name__)}
