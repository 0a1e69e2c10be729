"""What can be told of a backend's definition without its code and values. Pure.

Two that are equal have the same import path and equal arguments; the arguments themselves, a
password among them perhaps, or a whole model, stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNKNOWN = ""
"""In place of a digest: the arguments are no plain data, which is equal to nothing."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A definition that an import path names.

    Attributes:
        path: import path `package.module.Name`.
        init_args: digest of the positional arguments, or UNKNOWN.
        init_kwargs: digest of the named ones, or UNKNOWN.
    """

    path: str
    init_args: str
    init_kwargs: str


def outline(path: str, init_args: Sequence[object], init_kwargs: Mapping[str, object]) -> Outline:
    """The outline of a definition."""
    return Outline(path, _digest(list(init_args)), _digest(dict(init_kwargs)))


def are_same(one: str, other: str) -> bool:
    """Whether two digests are of equal arguments."""
    return one == other != UNKNOWN


def _digest(value: object) -> str:
    try:
        return hashlib.sha256(_spell(value).encode("utf-8", "surrogatepass")).hexdigest()
    except TypeError:
        return UNKNOWN


def _spell(value: object) -> str:
    """Plain data as text, equal exactly when it is; 1, 1.0 and true are three values."""
    if isinstance(value, dict):
        items = sorted(f"{_spell(key)}:{_spell(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spell, value)) + "]"
    if type(value) is float:
        return f"float {value + 0.0!r}"  # -0.0 is 0.0
    if type(value) in (str, int, bool, type(None)):
        return f"{type(value).__name__} {value!r}"
    raise TypeError(f"{value!r} is no plain data")
