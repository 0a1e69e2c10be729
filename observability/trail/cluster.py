"""The segments of a Ray cluster as one place: this node's, and those of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Protocol

from observability.trail.query import Query, Record, parse_time
from observability.trail.segments import SegmentFolder, time_of
from observability.trail.source import Fresh, Merged, Present, Source, skipped_problem
from observability.trail.streams import Node, NodeStreams


class OtherNode(Source, Node, Protocol):
    """Another node, read and streamed; see `nodes.RayNode`."""

    problems: list[str]
    skipped: int


class Cluster:
    """The records of this node, and of the others that can be asked.

    Args:
        here: this node's segments.
        others: the other nodes.
        ask: asks the replicas that run what they have under way of a request; None: it is not
            known whether any run.
    """

    def __init__(
        self,
        here: SegmentFolder,
        others: Iterable[OtherNode] = (),
        ask: Callable[[str], Present] | None = None,
    ) -> None:
        self._here = here
        self._ask = ask
        self._others = list(others)
        self._source = Merged((here, *self._others))

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records of all nodes, in the order of their time."""
        return self._source.read(query)

    def read_last(self, query: Query, count: int) -> Iterable[Record]:
        """The last ones of those."""
        return deque(self.read(query), maxlen=count)

    def follow(self, query: Query) -> Iterator[Fresh]:
        """The wanted records that are written from now on, on all nodes."""
        streams = NodeStreams(self._others, query, parse_time("0s", datetime.now(timezone.utc)))
        streams.start()
        own: list[Record] = []
        for record in self._here.follow(query):
            if record is not None:
                own.append(record)
                continue
            records = sorted([*own, *streams.take()], key=time_of)
            yield Fresh(records, tuple(streams.take_problems()))
            own.clear()

    def ask(self, request_id: str) -> Present | None:
        """What is under way of a request; None: nobody can be asked."""
        return None if self._ask is None else self._ask(request_id)

    def problems(self) -> list[str]:
        """What could not be read so far, for people."""
        found = [problem for node in self._others for problem in node.problems]
        skipped = self._here.skipped + sum(node.skipped for node in self._others)
        return [*found, *skipped_problem(skipped)]

    def describe(self) -> str:
        """Where it looks, for messages."""
        return str(self._here.path)
