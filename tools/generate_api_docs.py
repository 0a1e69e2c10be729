"""Writes docs/api.md from the code: signatures, docstrings, and the options' fields.

    python tools/generate_api_docs.py            write it
    python tools/generate_api_docs.py --check    exit 1 when it is not what the code says

A unit test makes the same check.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import serve
from serve.handle.handle import RayServeHandle, RayServeSyncHandle
from serve.handle.response import Response

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
LINE = 88

HEAD = """\
# API reference

Made from the code by `tools/generate_api_docs.py`; changes belong into the docstrings.

Everything here is imported from `serve`. The classes of handles and of `Response` are made by
`serve.get_handle` and `handle.call` only.
"""

FUNCTIONS = {
    "The instance": ["start", "connect", "shutdown"],
    "Backends": [
        *("create_backend", "list_backends", "get_backend_config"),
        *("update_backend_config", "delete_backend"),
    ],
    "Endpoints": [
        *("create_endpoint", "list_endpoints", "delete_endpoint"),
        *("set_traffic", "shadow_traffic", "get_handle"),
    ],
    "In a backend": [
        *("accept_batch", "batch", "expose", "ingress", "get_replica_context"),
        *("get_current_backend_tag", "get_current_replica_tag"),
        *("get_request_context", "carry_context"),
    ],
}
OPTIONS = ["BackendConfig", "HTTPOptions", "LoggingConfig"]
CLASSES: dict[str, tuple[type, list[str]]] = {
    "RayServeSyncHandle": (RayServeSyncHandle, ["remote", "call", "options"]),
    "RayServeHandle": (RayServeHandle, ["remote", "call", "options"]),
    "Response": (Response, ["result", "cancel", "done"]),
    "ServeRequest": (serve.ServeRequest, ["data", "body", "json", "form"]),
    "HTTPRequest": (serve.HTTPRequest, ["data"]),
    "ReplicaContext": (serve.ReplicaContext, []),
    "RequestContext": (serve.RequestContext, []),
    "Client": (serve.Client, []),
}
ERRORS = [
    *("RayServeException", "BackendStartError", "QueueFullError", "QueueTimeoutError"),
    *("ReplicaDiedError", "ReplicaUnavailableError"),
]

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Example):")
_ITEM = re.compile(r"(\*{0,2}\w+): (.*)")


def make_page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, names in FUNCTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_function(f"serve.{name}", getattr(serve, name), "###") for name in names]
    parts.append("## Options\n")
    parts += [_options(getattr(serve, name)) for name in OPTIONS]
    parts.append("## Classes\n")
    for name, (cls, members) in CLASSES.items():
        parts.append(f"### {name}\n\n{_text(cls)}")
        parts += [_member(name, cls, member) for member in members]
    parts.append("## Errors\n")
    parts += [_error(getattr(serve, name)) for name in ERRORS]
    return "\n".join(parts)


def named() -> set[str]:
    """Every name of `serve` that the page describes."""
    functions = {name for names in FUNCTIONS.values() for name in names}
    return functions | {*OPTIONS, *ERRORS} | (set(CLASSES) & set(serve.__all__))


def _function(name: str, function: Callable[..., Any], level: str) -> str:
    code = f"```python\n{_signature(name, function)}\n```"
    return f"{level} {name}\n\n{code}\n\n{_text(function)}"


def _member(owner: str, cls: type, name: str) -> str:
    member = inspect.getattr_static(cls, name)
    if isinstance(member, property):
        return f"#### {owner}.{name}\n\n{_text(member)}"
    return _function(f"{owner}.{name}", member, "####")


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    arguments = list(_arguments(signature))
    returns = signature.return_annotation
    tail = "" if returns is inspect.Signature.empty else f" -> {returns}"
    is_async = "async " if inspect.iscoroutinefunction(function) else ""
    line = f"{is_async}{name}({', '.join(arguments)}){tail}"
    if len(line) <= LINE:
        return line
    body = "".join(f"    {argument},\n" for argument in arguments)
    return f"{is_async}{name}(\n{body}){tail}"


def _arguments(signature: inspect.Signature) -> Iterator[str]:
    has_star = False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            yield "*"
        has_star |= parameter.kind is parameter.VAR_POSITIONAL
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(
            parameter.kind, ""
        )
        text = prefix + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            # A bare object() stands for "not given".
            is_unset = type(parameter.default) is object
            text += f" = {'...' if is_unset else repr(parameter.default)}"
        yield text


def _options(cls: type[BaseModel]) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    comments = _field_comments(cls)
    for name, field in cls.model_fields.items():
        kind = cls.__annotations__[name].replace("|", "\\|")
        default = field.get_default()
        shown = f"`{getattr(default, 'value', default)!r}`"
        rows.append(f"| `{name}` | `{kind}` | {shown} | {comments[name]} |")
    return f"### {cls.__name__}\n\n{_text(cls)}\n" + "\n".join(rows) + "\n"


def _field_comments(cls: type) -> dict[str, str]:
    """The text under each field of a class, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    comments: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            comments[field.target.id] = " ".join(str(below.value.value).split())
    return comments


def _error(cls: type[Exception]) -> str:
    parents = ", ".join(parent.__name__ for parent in cls.__bases__)
    return f"### {cls.__name__}({parents})\n\n{_text(cls)}"


def _text(thing: object) -> str:
    """A docstring as Markdown."""
    docstring = inspect.getdoc(thing) or ""
    if not docstring:
        raise ValueError(f"{thing!r} has no docstring. Write one; it is what the page shows.")
    head, sections = _split(docstring)
    parts = [head.strip()]
    for title, body in sections:
        if title == "Example":
            parts.append(f"**{title}**\n\n```python\n{body.rstrip()}\n```")
        else:
            parts.append(f"**{title}**\n\n{_items(body)}")
    return "\n\n".join(parts) + "\n"


def _split(docstring: str) -> tuple[str, list[tuple[str, str]]]:
    head: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    for line in docstring.splitlines():
        found = _SECTION.fullmatch(line)
        if found:
            sections.append((found[1], []))
        elif sections:
            sections[-1][1].append(line)
        else:
            head.append(line)
    bodies = [(title, textwrap.dedent("\n".join(lines))) for title, lines in sections]
    return "\n".join(head), bodies


def _items(body: str) -> str:
    """`name: text` with its continuation lines as a list; other text as it is."""
    lines: list[str] = []
    for line in body.strip().splitlines():
        found = _ITEM.fullmatch(line)
        if found:
            lines.append(f"* `{found[1]}`: {found[2]}")
        elif line.startswith("    ") and lines:
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines)


def main() -> int:
    """Write the page, or check it."""
    page = make_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    print(f"{PAGE} is not what the code says. Run: python {sys.argv[0]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
