"""What `tagtrail logs` and `tagtrail trace` do, once they know where to look."""

from __future__ import annotations

import json

import click

from observability.trail.query import Query, Record
from observability.trail.show import show_record, show_request
from observability.trail.source import Place, find_request
from observability.trail.tree import describe


class Trail:
    """Shows the records of a place.

    Args:
        place: a cluster's segments, or a Loki. What it raises, the methods raise.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def print_logs(self, query: Query, limit: int | None, *, as_json: bool) -> bool:
        """Print what is wanted; whether there was something. The last `limit` ones, None: all."""
        place = self._place
        records = place.read(query) if limit is None else place.read_last(query, limit)
        is_found = False
        for record in records:
            is_found = True
            _print(record, as_json)
        self._tell_problems()
        return is_found

    def follow_logs(self, query: Query, *, as_json: bool) -> None:
        """Print what is wanted from now on, until Ctrl-C."""
        try:
            for fresh in self._place.follow(query):
                for record in fresh.records:
                    _print(record, as_json)
                for problem in fresh.problems:
                    _tell(problem)
        except KeyboardInterrupt:
            pass

    def print_request(self, request_id: str, *, as_json: bool) -> bool:
        """Print a request's trees; whether there is any."""
        roots = find_request(self._place, request_id)
        if as_json:
            click.echo(json.dumps([describe(root) for root in roots], indent=2))
        else:
            for line in show_request(roots, request_id):
                click.echo(line)
        self._tell_problems()
        return bool(roots)

    def describe(self) -> str:
        """Where it looks, for messages."""
        return self._place.describe()

    def _tell_problems(self) -> None:
        """Say on stderr what could not be read."""
        for problem in self._place.problems():
            _tell(problem)


def _print(record: Record, as_json: bool) -> None:
    click.echo(json.dumps(record) if as_json else show_record(record))


def _tell(text: str) -> None:
    click.echo(text, err=True)
