"""The JSON schema of an app's file: for editors, and for the words of an error. Pure."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from observability.instrument.logging_config import LEVELS, LoggingConfig
from serve.app.records import Place
from serve.app.spec import ActorOptions, App, Backend, Endpoint
from serve.config import BackendConfig

Schema = Mapping[str, Any]

_PARTS: tuple[type[BaseModel], ...] = (
    ActorOptions,
    Backend,
    BackendConfig,
    Endpoint,
    LoggingConfig,
)


@functools.cache
def app_schema() -> dict[str, Any]:
    """The schema, each key described by what stands under its field in the code."""
    schema = App.model_json_schema(by_alias=True)
    _describe(schema, App)
    for part in _PARTS:
        _describe(schema["$defs"][part.__name__], part)
    schema["$defs"]["LoggingConfig"]["properties"]["level"]["examples"] = list(LEVELS)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_at(place: Place) -> Schema | None:
    """The part of the schema that describes a place; None where it says nothing."""
    found: Any = app_schema()
    for step in place:
        found = _resolve(found)
        if isinstance(step, int) and found.get("type") == "array":
            found = found.get("items")
        else:
            more = found.get("additionalProperties")
            found = found.get("properties", {}).get(step, more)
        if not isinstance(found, Mapping):
            return None
    return {**_resolve(found), **({"description": d} if (d := found.get("description")) else {})}


def expected(schema: Schema) -> str:
    """What a schema allows, in words: `an integer of at least 1`."""
    schema = _resolve(schema)
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items") or {}
        return f"a list, each {expected(items)}" if items.get("type") else "a list"
    words = {
        "integer": "an integer",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "object": "a mapping",
    }
    return words.get(str(kind), "another value") + _bounds(schema)


def _bounds(schema: Schema) -> str:
    least, above, most = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None and schema.get("type") == "integer":
        least = above + 1
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if least is not None:
        return f" of at least {least:g}"
    return f" above {above:g}" if above is not None else ""


def _resolve(schema: Schema) -> Schema:
    """Through references, and from `X | None` to X."""
    while True:
        if "$ref" in schema:
            schema = app_schema()["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "anyOf" in schema:
            schema = next(part for part in schema["anyOf"] if part.get("type") != "null")
        else:
            return schema


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    for name, text in _field_docs(model).items():
        key = model.model_fields[name].alias or name
        schema["properties"][key]["description"] = text
    for described in schema["properties"].values():
        described.pop("title", None)  # it says what the key says
        if isinstance(described.get("default"), dict):
            del described["default"]  # its parts have theirs


def _field_docs(model: type[BaseModel]) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs
