"""From a file's text to what it wants, or to all that is wrong in it, each with its line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve.app.places import Document, Mark, read_document
from serve.app.records import Place, Problem, Wanted, show_place
from serve.app.schema import Schema, expected, schema_at
from serve.app.spec import App, check_whole, suggest, wanted_of

_KEY = "[key]"
"""What pydantic puts at the end of a place when it means the key."""

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Located:
    """A problem, and where it stands: `app.yaml:12:7: backends.counter: ...`."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.file}:{self.line}:{self.column}:{key} {self.message}"


class FileError(Exception):
    """A file that is not as it should be, with all that is wrong in it."""

    def __init__(self, problems: list[Located]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class AppFile:
    """A file that is right.

    Attributes:
        name: as it was given.
        wanted: what it describes.
    """

    name: str
    wanted: Wanted
    document: Document

    def locate(self, problem: Problem) -> Located:
        """Where a problem stands in the file."""
        return _locate(self.name, self.document, problem)


def read_app(text: str, name: str) -> AppFile:
    """What a file describes.

    Args:
        text: YAML, or JSON if the name ends in `.json`.
        name: of the file, for messages.

    Raises:
        FileError: with every problem, in the order of the lines.
    """
    document = read_document(text, is_json=name.endswith(".json"))
    faults: dict[Mark, Located] = {}
    for fault in document.faults:  # an anchor is read again at each of its aliases
        faults.setdefault(fault.mark, _located(name, fault.mark, fault.place, fault.message))
    app, problems = _validate(document.data)
    if document.data is None:
        problems = [] if faults else [Problem((), "the file is empty: 'backends' is missing.")]
    others = {_locate(name, document, problem) for problem in problems}
    # What could not be read is missing, and that needs not be told too.
    others = {each for each in others if Mark(each.line, each.column) not in faults}
    found = [*faults.values(), *others]
    if found or app is None:
        raise FileError(sorted(found, key=lambda each: (each.line, each.column, each.message)))
    return AppFile(name, wanted_of(app), document)


def _validate(data: object) -> tuple[App | None, list[Problem]]:
    whole = list(check_whole(data))
    try:
        return App.model_validate(data, strict=True), whole
    except ValidationError as error:
        return None, [*(_explain(each) for each in error.errors(include_url=False)), *whole]


def _locate(name: str, document: Document, problem: Problem) -> Located:
    mark = document.find(problem.place, is_key=problem.is_key)
    return _located(name, mark, problem.place, problem.message)


def _located(name: str, mark: Mark, place: Place, message: str) -> Located:
    return Located(name, mark.line, mark.column, show_place(place), message)


def _explain(error: ErrorDetails) -> Problem:
    """One of pydantic's errors in our words."""
    place: Place = error["loc"]
    if place and place[-1] == _KEY:
        return Problem(place[:-1], _own_words(error) or _no_text(error["input"]), is_key=True)
    if error["type"] == "extra_forbidden":
        known = (schema_at(place[:-1]) or {}).get("properties", {})
        return Problem(
            place, f"unknown key '{place[-1]}'. {suggest(place[-1], known)}", is_key=True
        )
    schema = schema_at(place) or {}
    if error["type"] == "missing":
        return Problem(place, f"it is missing. {_about(schema)}".rstrip(), is_key=True)
    said = f"expected {expected(schema)}, got {_show(error['input'])}. {_about(schema)}".rstrip()
    return Problem(place, _own_words(error) or said)


def _own_words(error: ErrorDetails) -> str:
    """What a validator of ours said."""
    own = error.get("ctx", {}).get("error")
    return str(own) if own is not None else ""


def _no_text(key: object) -> str:
    return f"a key must be text, got {_show(key)}. Quote it: '{key}'."


def _about(schema: Schema) -> str:
    """The first sentence of a key's documentation."""
    text = str(schema.get("description", ""))
    first, stop, _ = text.partition(". ")
    return first + "." if stop else text


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
