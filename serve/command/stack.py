"""What `tagtrail stack` does: the programs of the pipeline on this machine, up, down, status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from observability.deployed import deploy_folder
from observability.settings import stack_folder
from observability.stack.choice import Missing
from observability.stack.health import Health
from observability.stack.runner import START_S, Stack, Step, Wanted
from observability.stack.services import BY_NAME, StackError, default_ports
from observability.stack.state import Started
from serve.command.exits import EXIT_DIFFERS, fail

_WIDTH = max(map(len, BY_NAME)) + 2
_COLOURS = {
    Step.HEALTHY: "green",
    Step.FAILED: "red",
    Step.KILLED: "yellow",
    Step.WAS_GONE: "yellow",
    Health.HEALTHY: "green",
    Health.NOT_HEALTHY: "yellow",
    Health.GONE: "red",
}


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all three take."""
    folder = click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="PATH",
        help="What runs, data and logs are kept here. Default: tagtrail/stack "
        "in $XDG_STATE_HOME, else in ~/.local/state.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
    return folder(as_json(command))


@click.group()
def stack() -> None:
    """Run log store, log agent, Prometheus, Alertmanager and Grafana on this machine.

    Those that are installed, with the files of deploy/, on 127.0.0.1. No container is needed;
    deploy/compose.yaml is the same for those who want containers. See docs/stack.md.
    """


def _read_ports(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    ports = {}
    for value in values:
        name, _, number = value.partition("=")
        if name not in default_ports() or not number.isdigit() or not 0 < int(number) < 65536:
            raise click.BadParameter(
                f"{value!r}: expected NAME=PORT, a name of {', '.join(default_ports())}."
            )
        ports[name] = int(number)
    return ports


@stack.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(BY_NAME)),
    metavar="NAME",
    help=f"Only this one; may be given again. Names: {', '.join(BY_NAME)}.",
)
@click.option(
    "--port",
    "ports",
    multiple=True,
    callback=_read_ports,
    metavar="NAME=PORT",
    help="Another port for one of them. The others are told.",
)
@click.option(
    "--ray-folder",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of Ray's session_latest (ray start --temp-dir). Default: $RAY_TMPDIR/ray, "
    "/tmp/ray.",
)
@click.option(
    "--timeout",
    "start_s",
    default=START_S,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that each may take until it is healthy.",
)
@_options
def up(folder: Path | None, as_json: bool, **wanted: Any) -> None:
    """Start what is installed, wait until each is healthy, print the addresses.

    They stay when this shell ends, until 'tagtrail stack down'. Called again, it starts only what
    does not run. Where there is no Loki, VictoriaLogs takes its place.

    Exit code 0: all that was found runs and is healthy; 1: something failed, and what this call
    started is stopped again.
    """
    target = _open(folder, None if as_json else _tell_start)
    try:
        report = target.up(Wanted(**wanted))
    except (StackError, FileNotFoundError) as error:
        fail(str(error))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "services": [asdict(item) for item in report.started],
                    "missing": [asdict(item) for item in report.missing],
                },
                indent=2,
            )
        )
    else:
        _print_missing(report.missing)
    if not report.started:
        fail("Nothing is installed that could be started. deploy/compose.yaml needs Docker only.")
    if not as_json:
        place = "" if folder is None else f" --folder {folder}"
        click.echo(
            f"How they are: tagtrail stack status{place}. To stop them: tagtrail stack down{place}."
        )


@stack.command()
@_options
def down(folder: Path | None, as_json: bool) -> None:
    """Stop what 'up' has started, the last first. Data and logs stay.

    Exit code 0: nothing of it runs; 1: something could not be stopped.
    """
    target = _open(folder, None if as_json else _tell_stop)
    try:
        steps = target.down()
    except StackError as error:
        fail(str(error))
    if as_json:
        click.echo(
            json.dumps([{"name": item.name, "step": step.value} for item, step in steps], indent=2)
        )
    elif not steps:
        click.echo("Nothing was started.")


@stack.command()
@_options
def status(folder: Path | None, as_json: bool) -> None:
    """Show what 'up' has started, and how it is.

    Exit code 0: all of it is healthy; 3: something is not, or nothing was started.
    """
    try:
        items = _open(folder, None).status()
    except StackError as error:
        fail(str(error))
    if as_json:
        click.echo(
            json.dumps([{**asdict(item), "state": state.value} for item, state in items], indent=2)
        )
    else:
        for item, state in items:
            where = item.address if state is Health.HEALTHY else f"its log: {item.log}"
            click.echo(f"{item.name:<{_WIDTH}}{_coloured(state)}  {where}")
        if not items:
            click.echo("Nothing was started. Start it: tagtrail stack up")
    if not items or any(state is not Health.HEALTHY for _, state in items):
        sys.exit(EXIT_DIFFERS)


def _open(folder: Path | None, tell: Callable[[Step, Started], None] | None) -> Stack:
    try:
        deploy = deploy_folder()
    except FileNotFoundError as error:
        fail(str(error))
    path = stack_folder() if folder is None else folder
    return Stack(path.absolute(), deploy, tell or (lambda step, started: None))


def _tell_start(step: Step, item: Started) -> None:
    if step in (Step.STARTING, Step.RUNS_ALREADY):
        click.echo(f"{item.name:<{_WIDTH}}{step.value} ... ", nl=False)
    elif step is Step.HEALTHY:
        click.echo(f"{_coloured(step)}  {item.address}")
    elif step is Step.FAILED:
        click.echo(_coloured(step))
    else:
        _tell_stop(step, item)


def _tell_stop(step: Step, item: Started) -> None:
    click.echo(f"{item.name:<{_WIDTH}}{_coloured(step)}")


def _coloured(step: Step | Health) -> str:
    return click.style(step.value, fg=_COLOURS.get(step))


def _print_missing(missing: tuple[Missing, ...]) -> None:
    if not missing:
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("Missing", "For", "How to get it", title="Not on this machine")
    for item in missing:
        table.add_row(item.name, item.role, escape(item.how_to_get))
    Console().print(table, highlight=False)
