"""YAML or JSON text as plain data, with the line and column of each value and key. Pure.

PyYAML's composer knows the positions but makes no data; its constructor makes data but forgets the
positions, takes a key twice, and would make objects of tags. So the tree is walked here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from serve.app.records import Place

MOST_NODES = 100_000
"""A few lines of aliases of aliases can stand for any number of values."""

_ENDLESS = "an alias of what it is a part of has no end."
_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null")}
_MERGE, _VALUE, _TIME = f"{_TAG}merge", f"{_TAG}value", f"{_TAG}timestamp"


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What can't be read, and where."""

    mark: Mark
    message: str
    place: Place = ()


@dataclass(slots=True)
class Document:
    """What was read.

    Attributes:
        data: plain data.
        values: where each value begins.
        keys: where each value's key begins.
        faults: what could not be read; the data is without it.
    """

    data: Any = None
    values: dict[Place, Mark] = field(default_factory=dict)
    keys: dict[Place, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def find(self, place: Place, *, is_key: bool) -> Mark:
        """Where a place is; of what encloses it, if it is not there itself."""
        first, second = (self.keys, self.values) if is_key else (self.values, self.keys)
        for length in range(len(place), -1, -1):
            mark = first.get(place[:length]) or second.get(place[:length])
            if mark is not None:
                return mark
            first, second = self.keys, self.values  # what is missing is told at its owner's name
        return Mark(1, 1)


def read_document(text: str, *, is_json: bool = False) -> Document:
    """The data of a text and where it stands; what is wrong is in its `faults`.

    Args:
        text: YAML, of which JSON is nearly a part.
        is_json: take the values as JSON has them: `1e5` is a number, a tab is a space.
    """
    document = Document()
    try:
        if is_json:
            data = json.loads(text)
            text = text.replace("\t", " ")  # in JSON none can be inside of a value
        _Walk(document).run(yaml.compose(text, Loader=yaml.SafeLoader))
        if is_json:
            document.data = data
    except json.JSONDecodeError as error:
        document.faults = [Fault(Mark(error.lineno, error.colno), f"no JSON: {error.msg}.")]
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        document.faults = [Fault(mark, f"no YAML: {said}.")]
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        document.faults = [
            Fault(mark, f"no YAML: the character {chr(error.character)!r} is not allowed.")
        ]
    except RecursionError:
        document.faults = [Fault(Mark(1, 1), "it is nested too deeply.")]
    document.faults.sort(key=lambda fault: fault.mark)
    return document


class _TooMany(Exception):
    """More values than any app has."""


class _Walk:
    """Fills a document from a composed tree."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = SafeConstructor()
        self._open: list[Node] = []
        self._nodes = 0

    def run(self, root: Node | None) -> None:
        try:
            self._document.data = None if root is None else self._value(root, ())
        except _TooMany:
            self._document.faults = [
                Fault(
                    _mark(root),
                    f"it stands for more than {MOST_NODES} values: aliases of aliases.",
                )
            ]

    def _value(self, node: Node, place: Place) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _TooMany
        self._document.values[place] = _mark(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        if any(node is each for each in self._open):
            return self._refuse(node, place, _ENDLESS)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            return self._refuse_tag(node, place)
        self._open.append(node)
        try:
            if isinstance(node, SequenceNode):
                return [self._value(each, (*place, i)) for i, each in enumerate(node.value)]
            return {
                key: self._member(key_node, value_node, (*place, key))
                for key, key_node, value_node in self._pairs(node, place)
            }
        finally:
            self._open.pop()

    def _member(self, key_node: Node, value_node: Node, place: Place) -> Any:
        self._document.keys[place] = _mark(key_node)
        return self._value(value_node, place)

    def _pairs(self, node: MappingNode, place: Place) -> list[tuple[Any, Node, Node]]:
        """Keys and values; those of `<<` after its own, and without what is there already."""
        pairs: dict[Any, tuple[Any, Node, Node]] = {}
        merged: list[MappingNode] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged += self._merged(value_node, place)
                continue
            key = self._key(key_node, place)
            if key in pairs:
                line = _mark(pairs[key][1]).line
                self._refuse(
                    key_node, (*place, key), f"it is there twice, first in line {line}. Remove one."
                )
            pairs[key] = (key, key_node, value_node)
        for each in merged:
            if any(each is outer for outer in self._open):
                self._refuse(each, place, _ENDLESS)
                continue
            self._open.append(each)
            for pair in self._pairs(each, place):
                pairs.setdefault(pair[0], pair)
            self._open.pop()
        return list(pairs.values())

    def _merged(self, node: Node, place: Place) -> Iterator[MappingNode]:
        for each in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(each, MappingNode):
                yield each
            else:
                text = "'<<' takes the alias of a mapping, or a list of such."
                self._refuse(each, place, text)

    def _key(self, node: Node, place: Place) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        self._refuse(node, place, "a key must be text.")
        return "?"

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        if node.tag == _TIME:
            text = f"{node.value} is read as a date. Quote it: '{node.value}'."
            return self._refuse(node, place, text)
        if node.tag == _VALUE:
            return node.value
        if node.tag not in _PLAIN:
            return self._refuse_tag(node, place)
        try:
            return self._constructor.construct_object(node)
        except ValueError:  # 0x_ and 0b_ look like numbers to the resolver
            text = f"{node.value} is read as a number and is none. Quote it."
            return self._refuse(node, place, text)

    def _refuse_tag(self, node: Node, place: Place) -> None:
        tag = node.tag.replace(_TAG, "!!")
        text = f"the tag {tag} is not allowed: a file of plain values needs none."
        self._refuse(node, place, text)

    def _refuse(self, node: Node, place: Place, message: str) -> None:
        self._document.faults.append(Fault(_mark(node), message, place))


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
