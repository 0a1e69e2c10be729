"""Where records come from: anything that can be asked a query. Several sources are one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from observability.fields import DROPPED_WORDS, ENDED_WORDS
from observability.trail.query import Query, Record
from observability.trail.segments import time_of
from observability.trail.step import Step
from observability.trail.tree import assemble


class SourceError(Exception):
    """A source can't be asked; the message says what to do."""


class Source(Protocol):
    """Anything that has records."""

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records in the order of their time."""
        ...


@dataclass(frozen=True, slots=True)
class Fresh:
    """What came since the last time.

    Attributes:
        records: in the order of their time.
        problems: what could not be read, for people.
    """

    records: list[Record]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Present:
    """What the replicas that run have under way of a request and have not written.

    Attributes:
        records: as `serve/replica/present.py` makes them.
        silent: names of replicas that did not answer.
    """

    records: tuple[Record, ...] = ()
    silent: tuple[str, ...] = ()


class Place(Source, Protocol):
    """A source that the commands look at: it can be followed, too, and tells what went wrong.

    Its methods raise SourceError when it can't be asked at all.
    """

    def read_last(self, query: Query, count: int) -> Iterable[Record]:
        """The last ones of the wanted records, in the order of their time."""
        ...

    def follow(self, query: Query) -> Iterator[Fresh]:
        """The wanted records that are written from now on, without an end."""
        ...

    def ask(self, request_id: str) -> Present | None:
        """What is under way of a request; None: nobody can be asked here."""
        ...

    def problems(self) -> list[str]:
        """What could not be read so far, for people."""
        ...

    def describe(self) -> str:
        """Where it looks, for messages."""
        ...


@dataclass(frozen=True, slots=True)
class Merged:
    """Several sources as one: the nodes of a cluster."""

    sources: tuple[Source, ...]

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records of all, in the order of their time."""
        return heapq.merge(*(source.read(query) for source in self.sources), key=time_of)


def skipped_problem(count: int) -> list[str]:
    """That so many lines could not be read; nothing for none."""
    if not count:
        return []
    return [f"{count} lines are no records and were left out (half-written ones, say)."]


def find_request(source: Source, request_id: str, present: Present | None = None) -> list[Step]:
    """All that a source knows of one request, as trees.

    Args:
        source: where to look.
        request_id: the request's id, as the answer's `X-Request-ID` header has it.
        present: what is under way of it, asked for before; None: it is not known.

    Returns:
        One root for each time a client used this id; none when it is not known.
    """
    records = list(source.read(Query(request_id=request_id)))
    is_live = present is not None and not present.silent
    if present is not None:
        records += present.records
    roots = assemble(records, is_live=is_live)
    facts = _find_facts(source, roots)
    return assemble([*records, *facts], is_live=is_live) if facts else roots


def find_gaps(source: Source) -> list[Record]:
    """All records that tell of others which could not be written."""
    return list(source.read(Query(text=DROPPED_WORDS)))


def _find_facts(source: Source, roots: list[Step]) -> list[Record]:
    """What may tell why steps of a request left no record."""
    lost = [s for root in roots for s in root.walk() if s.access is None and s.fate is None]
    replicas = {step.where.replica for step in lost if step.where is not None}
    facts = [
        record
        for replica in sorted(replicas)
        for record in source.read(Query(replica=replica, text=ENDED_WORDS))
    ]
    return [*facts, *find_gaps(source)] if lost else []
