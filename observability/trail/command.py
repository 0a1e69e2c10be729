"""What `tagtrail logs` and `tagtrail trace` do, once they know where to look."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from observability.instrument.plain import one_line
from observability.trail.query import Query, Record
from observability.trail.show import show_record, show_request
from observability.trail.source import Place, Present, find_gaps, find_request
from observability.trail.step import State, Step

MOST_GAPS = 5
"""So many of the last times at which records were dropped are told of a request without any."""


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
        present = self._place.ask(request_id)  # before: what ends meanwhile has a record then
        roots = find_request(self._place, request_id, present)
        if as_json:
            click.echo(json.dumps([root.describe() for root in roots], indent=2))
        else:
            for line in show_request(roots, request_id):
                click.echo(line)
        self._tell_problems()
        for line in self._explain(roots, present or Present()):
            _tell(line)
        return bool(roots)

    def describe(self) -> str:
        """Where it looks, for messages."""
        return self._place.describe()

    def _explain(self, roots: list[Step], present: Present) -> Iterator[str]:
        """What may be behind a request, or a step, of which nothing is known."""
        states = {step.state for root in roots for step in root.walk()}
        if roots and State.UNKNOWN not in states:
            return
        for name in present.silent:
            yield f"{name} did not tell what it has under way: is it blocked, or starting?"
        if not roots:
            gaps = [*find_gaps(self._place), *(r for r in present.records if r.get("dropped"))]
            for gap in gaps[-MOST_GAPS:]:
                who = gap.get("replica") or gap.get("component")
                yield one_line(f"Its records may be among these, of {who}: {gap.get('message')}")

    def _tell_problems(self) -> None:
        """Say on stderr what could not be read."""
        for problem in self._place.problems():
            _tell(problem)


def _print(record: Record, as_json: bool) -> None:
    click.echo(json.dumps(record) if as_json else show_record(record))


def _tell(text: str) -> None:
    click.echo(text, err=True)
