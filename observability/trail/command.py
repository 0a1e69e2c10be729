"""What `tagtrail logs` and `tagtrail trace` do, once they know where to look."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable

import click

from observability.trail.nodes import RayNode
from observability.trail.query import Query, Record
from observability.trail.segments import SegmentFolder
from observability.trail.show import show_record, show_request
from observability.trail.source import Merged, find_request
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
        """Print what is wanted from now on, until Ctrl-C."""
        if self._others:
            names = ", ".join(node.address for node in self._others)
            _tell(f"Only this node is followed. Not followed: {names}.")
        try:
            for record in self._here.follow(query):
                if record is not None:
                    _print(record, as_json)
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
