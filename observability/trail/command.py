"""What `tagtrail logs` and `tagtrail trace` do, once they know where to look."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timezone

import click

from observability.trail.nodes import RayNode
from observability.trail.query import Query, Record, parse_time
from observability.trail.segments import SegmentFolder, time_of
from observability.trail.show import show_record, show_request
from observability.trail.source import Merged, find_request
from observability.trail.streams import NodeStreams
from observability.trail.tree import describe


class Trail:
    """The records of this node, and of the others that can be asked.

    Args:
        here: this node's segments.
        others: the other nodes.
    """

    def __init__(self, here: SegmentFolder, others: Iterable[RayNode] = ()) -> None:
        self._here = here
        self._others = list(others)
        self._source = Merged((here, *self._others))

    def print_logs(self, query: Query, limit: int | None, *, as_json: bool) -> bool:
        """Print what is wanted; whether there was something. The last `limit` ones, None: all."""
        records: Iterable[Record] = self._source.read(query)
        if limit is not None:
            records = deque(records, maxlen=limit)
        is_found = False
        for record in records:
            is_found = True
            _print(record, as_json)
        self.tell_problems()
        return is_found

    def follow_logs(self, query: Query, *, as_json: bool) -> None:
        """Print what is wanted from now on, on all nodes, until Ctrl-C."""
        streams = NodeStreams(self._others, query, parse_time("0s", datetime.now(timezone.utc)))
        streams.start()
        fresh: list[Record] = []
        try:
            for record in self._here.follow(query):
                if record is not None:
                    fresh.append(record)
                    continue
                for found in sorted([*fresh, *streams.take()], key=time_of):
                    _print(found, as_json)
                fresh.clear()
                for problem in streams.take_problems():
                    _tell(problem)
        except KeyboardInterrupt:
            pass

    def print_request(self, request_id: str, *, as_json: bool) -> bool:
        """Print a request's trees; whether there is any."""
        roots = find_request(self._source, request_id)
        if as_json:
            click.echo(json.dumps([describe(root) for root in roots], indent=2))
        else:
            for line in show_request(roots, request_id):
                click.echo(line)
        self.tell_problems()
        return bool(roots)

    def tell_problems(self) -> None:
        """Say on stderr what could not be read."""
        for node in self._others:
            for problem in node.problems:
                _tell(problem)
        skipped = self._here.skipped + sum(node.skipped for node in self._others)
        if skipped:
            _tell(f"{skipped} lines are no records and were left out (half-written ones, say).")

    def describe(self) -> str:
        """Where it looks, for messages."""
        return str(self._here.path)


def _print(record: Record, as_json: bool) -> None:
    click.echo(json.dumps(record) if as_json else show_record(record))


def _tell(text: str) -> None:
    click.echo(text, err=True)
