"""What `tagtrail deploy` and `tagtrail diff` do: a file, and what it makes of the instance."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from serve.command.cluster import connect_instance
from serve.command.exits import EXIT_DIFFERS, fail

if TYPE_CHECKING:
    from serve.app.read import AppFile, Located
    from serve.app.steps import Change, Plan, Step
    from serve.client import Client

EXIT_USAGE = 2
"""The file is wrong, as is any other usage."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    options = (
        click.option("--remove", is_flag=True, help="What the file does not name goes."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("file", required=False)
@_options
@click.option(
    "--replace",
    is_flag=True,
    help="What can't be changed while it runs (code, arguments, Ray options, routes, methods) is "
    "deleted and made anew. Requests fail meanwhile.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of such a file, for editors.")
@click.pass_obj
def deploy(
    address: str,
    /,
    file: str | None,
    remove: bool,
    as_json: bool,
    replace: bool,
    dry_run: bool,
    schema: bool,
) -> None:
    """Make the running instance as FILE says: backends, endpoints, traffic.

    FILE is YAML or JSON; examples/app.yaml is one, docs/declarative.md tells all. Deployed again,
    it changes nothing. What the instance has and the file does not name is left alone.

    Exit code 0: it is as the file says; 1: it could not be done; 2: the file is wrong, and nothing
    was changed.
    """
    if schema:
        _print_schema()
        return
    if file is None:
        raise click.UsageError("Name the file: 'tagtrail deploy app.yaml'.")
    app = _read(file, as_json=as_json)
    client = connect_instance(address)
    made = _plan(app, client, removes=remove, replaces=replace)
    report = _Report(as_json=as_json, does=not dry_run)
    if made.refusals:
        report.fail([app.locate(each) for each in made.refusals])
    if dry_run:
        report.tell_all(made)
    else:
        _apply(app, client, made, report)
    report.end()


@click.command()
@click.argument("file")
@_options
@click.pass_obj
def diff(address: str, /, file: str, remove: bool, as_json: bool) -> None:
    """Tell what 'tagtrail deploy FILE' would do.

    Exit code 0: nothing; 3: something; 1: there is no instance; 2: the file is wrong.
    """
    app = _read(file, as_json=as_json)
    client = connect_instance(address)
    made = _plan(app, client, removes=remove, replaces=False)
    report = _Report(as_json=as_json, does=False)
    report.problems = [app.locate(each) for each in made.refusals]
    report.tell_all(made)
    report.end()
    if made.steps or made.refusals:
        sys.exit(EXIT_DIFFERS)


class _Report:
    """What is told of a deploy: a line for each object, or one piece of JSON at the end.

    Args:
        as_json: print JSON.
        does: it is done, and not only told.
    """

    def __init__(self, *, as_json: bool, does: bool) -> None:
        self._as_json = as_json
        self._does = does
        self._told: list[Change] = []
        self.problems: list[Located] = []
        self.changed = False

    def tell(self, change: Change) -> None:
        """One object is done."""
        self._told.append(change)
        if not self._as_json:
            click.echo(_line(change, self._does))

    def tell_all(self, made: Plan) -> None:
        """Of a plan that is not carried out."""
        for change in made.changes:
            self.tell(change)

    def end(self) -> None:
        """Print what is left to print."""
        if self._as_json:
            _print_json(self._told, self.problems)
            return
        for problem in self.problems:
            click.echo(str(problem), err=True)
        if all(change.action.value in ("nothing", "leave") for change in self._told):
            click.echo("Nothing to do.")

    def fail(self, problems: list[Located]) -> NoReturn:
        """End the command with what went wrong."""
        if self._as_json:
            _print_json(self._told, problems)
        for problem in problems:
            click.echo(str(problem), err=True)
        fail(
            "Not all of it could be done. Mend the cause and deploy again: what is done stays."
            if self.changed
            else "It could not be done. Nothing was changed."
        )


def _read(name: str, *, as_json: bool) -> AppFile:
    from serve.app.read import FileError, Located, read_app
    from serve.app.settle import settle

    try:
        return settle(read_app(Path(name).read_text(encoding="utf-8-sig"), name))
    except FileError as error:
        _end_wrong(error.problems, as_json=as_json)
    except UnicodeDecodeError as error:
        problem = Located(name, 1, 1, "", f"no UTF-8 text ({error.reason} at byte {error.start}).")
    except OSError as error:
        problem = Located(name, 1, 1, "", f"it can't be read: {error.strerror}.")
    _end_wrong([problem], as_json=as_json)


def _plan(app: AppFile, client: Client, *, removes: bool, replaces: bool) -> Plan:
    from serve.app.plan import plan
    from serve.app.present import present_of

    present = present_of(client.status().goal)
    return plan(app.wanted, present, removes=removes, replaces=replaces)


def _apply(app: AppFile, client: Client, made: Plan, report: _Report) -> None:
    """Carry a plan out; each object is told once its last step is done."""
    from serve.app.apply import StepError, apply
    from serve.app.records import Problem

    changes = {(change.kind, change.name): change for change in made.changes}
    last = {(step.kind, step.name): step for step in made.steps}

    def tell(step: Step) -> None:
        key = (step.kind, step.name)
        report.changed = True
        if last[key] is step:
            report.tell(changes[key])

    for key, change in changes.items():
        if key not in last:
            report.tell(change)
    try:
        apply(client, made.steps, tell)
    except StepError as error:
        place = (f"{error.step.kind.value}s", error.step.name)
        report.fail([app.locate(Problem(place, str(error), is_key=True))])


def _end_wrong(problems: list[Located], *, as_json: bool) -> NoReturn:
    """For a file that is no app."""
    if as_json:
        _print_json([], problems)
    for problem in problems:
        click.echo(str(problem), err=True)
    click.echo("Error: The file is wrong. Nothing was changed.", err=True)
    sys.exit(EXIT_USAGE)


def _print_json(told: list[Change], problems: list[Located]) -> None:
    answer = {
        "changes": [change.as_dict() for change in told],
        "problems": [asdict(problem) for problem in problems],
    }
    click.echo(json.dumps(answer, indent=2))


def _print_schema() -> None:
    from serve.app.schema import app_schema

    click.echo(json.dumps(app_schema(), indent=2))


def _line(change: Change, does: bool) -> str:
    words = {
        "create": ("is missing", "made"),
        "update": ("differs", "changed"),
        "replace": ("differs, and must be replaced", "replaced"),
        "remove": ("is not in the file, and goes", "removed"),
        "nothing": ("is as it should be",) * 2,
        "leave": ("is not in the file: left alone",) * 2,
    }[change.action.value]
    colour = None if change.action.value in ("nothing", "leave") else "yellow"
    where = f": {'; '.join(change.differences)}" if change.differences else ""
    return f"{change.kind.value} {change.name} {click.style(words[does], fg=colour)}{where}"
