"""Route patterns: which are allowed, what they match, and the same as a regular expression.

Starlette's syntax: `{name}`, `{n:int}`, `{x:float}`, `{rest:path}`. HAProxy takes the regular
expression; replicas read a path's parameters with the same code, so this file imports nothing but
the standard library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

RESERVED_ROUTES = ("/-/routes", "/-/healthz")
"""Answered by the ingress itself."""

_CONVERTERS: dict[str, tuple[str, type[str] | type[int] | type[float]]] = {
    "str": ("[^/]+", str),
    "int": ("[0-9]+", int),
    "float": (r"[0-9]+(\.[0-9]+)?", float),
    "path": (".*", str),
}
_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")
_SPECIAL = re.compile(r"[.^$*+?()\[\]{}|\\]")  # re.escape escapes more, and POSIX dislikes that


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A route that is ready to be matched.

    Attributes:
        route: the pattern as it was given.
        is_mount: it is a prefix: the path itself and everything below it match.
        is_literal: it holds no parameter.
        regex: what it matches, anchored, in the common subset of PCRE and POSIX extended syntax.
    """

    route: str
    is_mount: bool
    is_literal: bool
    regex: str
    _pattern: re.Pattern[str] = field(repr=False, compare=False)
    _types: tuple[tuple[str, type[str] | type[int] | type[float]], ...] = field(
        repr=False, compare=False
    )

    def match(self, path: str) -> dict[str, object] | None:
        """The path's parameters, converted, or None when the route does not match.

        Args:
            path: URL-decoded path, without the query.
        """
        found = self._pattern.match(path)
        if found is None:
            return None
        return {name: kind(found[name]) for name, kind in self._types}

    def find_root(self, path: str) -> str:
        """The part of a path in this mount that is the mount itself: ASGI's `root_path`.

        Args:
            path: URL-decoded path that matches.
        """
        found = self._pattern.match(path)
        below = found.start(found.re.groups) if found is not None else -1  # last group: `(/.*)?`
        return path if below < 0 else path[:below]


def check_route(route: str) -> None:
    """Refuse a pattern that could not be served.

    Raises:
        ValueError: names the route, what is wrong with it, and what to write instead.
    """
    if not route.startswith("/"):
        raise ValueError(f"Route {route!r} must start with '/'. Try {'/' + route!r}.")
    for char in route:
        if char.isspace() or unicodedata.category(char) in ("Cc", "Cs", "Zs"):
            raise ValueError(
                f"Route {route!r} holds {char!r}. Spaces and control characters are not "
                "allowed in a route; replace them with '-' or '_'."
            )
    if route in RESERVED_ROUTES:
        raise ValueError(
            f"Route {route!r} is reserved: the ingress answers it itself. Choose another one, "
            f"and not one of {', '.join(map(repr, RESERVED_ROUTES))}."
        )
    names: set[str] = set()
    for part in _parts(route):
        if isinstance(part, str):
            continue
        name, converter = part
        if converter not in _CONVERTERS:
            raise ValueError(
                f"Route {route!r} uses the unknown converter {converter!r}. "
                f"Known: {', '.join(map(repr, _CONVERTERS))}. Write {{{name}}} for any text."
            )
        if name in names:
            raise ValueError(
                f"Route {route!r} names the parameter {name!r} twice. Rename one of them."
            )
        names.add(name)


def compile_route(route: str, is_mount: bool = False) -> CompiledRoute:
    """Make a pattern ready for matching.

    Args:
        route: pattern, such as `/users/{id:int}`.
        is_mount: match everything below it too. `/api` and `/api/` are the same mount.

    Raises:
        ValueError: `check_route` refuses it.
    """
    check_route(route)
    plain, named = "^", "^"
    types: list[tuple[str, type[str] | type[int] | type[float]]] = []
    for part in _parts(route.rstrip("/") if is_mount else route):
        if isinstance(part, str):
            literal = _SPECIAL.sub(r"\\\g<0>", part)
            plain, named = plain + literal, named + literal
        else:
            name, converter = part
            regex, kind = _CONVERTERS[converter]
            plain, named = f"{plain}({regex})", f"{named}(?P<{name}>{regex})"
            types.append((name, kind))
    tail = "(/.*)?$" if is_mount else "$"
    return CompiledRoute(
        route, is_mount, not types, plain + tail, re.compile(named + tail), tuple(types)
    )


def _parts(route: str) -> Iterator[str | tuple[str, str]]:
    """Literal text and (parameter name, converter), in their order."""
    end = 0
    for found in _PARAMETER.finditer(route):
        yield from _literal(route, route[end : found.start()])
        yield found[1], found[2] or "str"
        end = found.end()
    yield from _literal(route, route[end:])


def _literal(route: str, text: str) -> Iterator[str]:
    if "{" in text or "}" in text:
        raise ValueError(
            f"Route {route!r} has braces that are not a parameter near {text!r}. "
            "Expected {name}, {name:int}, {name:float} or {name:path}."
        )
    if text:
        yield text
