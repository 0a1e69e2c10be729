"""Where records come from: anything that can be asked a query. Several sources are one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from observability.trail.query import Query, Record
from observability.trail.segments import time_of
from observability.trail.tree import Step, assemble


class Source(Protocol):
    """Anything that has records."""

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records in the order of their time."""
        ...


@dataclass(frozen=True, slots=True)
class Merged:
    """Several sources as one: the nodes of a cluster."""

    sources: tuple[Source, ...]

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records of all, in the order of their time."""
        return heapq.merge(*(source.read(query) for source in self.sources), key=time_of)


def find_request(source: Source, request_id: str) -> list[Step]:
    """All that a source knows of one request, as trees.

    Args:
        source: where to look.
        request_id: the request's id, as the answer's `X-Request-ID` header has it.

    Returns:
        One root for each time a client used this id; none when it is not known.
    """
    return assemble(source.read(Query(request_id=request_id)))
