"""What `tagtrail grafana` does: data sources and dashboards, into a Grafana that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from serve.command.exits import EXIT_DIFFERS, fail

PROGRAMS = {
    "prometheus": "Prometheus",
    "loki": "Loki",
    "alertmanager": "Alertmanager",
    "jaeger": "Jaeger",
}
"""What the data sources are, by Grafana's name of their type."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    options = (
        click.option(
            "--url",
            default="http://127.0.0.1:3000",
            show_default=True,
            envvar="GRAFANA_URL",
            show_envvar=True,
            help="Address of the Grafana.",
        ),
        click.option(
            "--token",
            envvar="GRAFANA_TOKEN",
            show_envvar=True,
            help="Token of a service account with the role Admin.",
        ),
        click.option("--user", metavar="NAME:PASSWORD", help="Instead of a token."),
        *(
            click.option(f"--{kind}", metavar="URL", help=f"{name}, as that Grafana reaches it.")
            for kind, name in PROGRAMS.items()
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def grafana() -> None:
    """Bring data sources and dashboards into a Grafana that runs.

    To have them read from files instead, see docs/grafana.md. Needs: pip install
    'tagtrail[grafana]'
    """


@grafana.command()
@_options
def push(**options: Any) -> None:
    """Make there what is missing, and change what differs. Called again: nothing.

    What Grafana has of its own stays. Exit code 1: it can't be reached, or refuses.
    """
    _run(does_push=True, **options)


@grafana.command()
@_options
def diff(**options: Any) -> None:
    """Tell what push would do. Exit code 0: nothing; 3: something; 1: it can't be reached."""
    if _run(does_push=False, **options):
        sys.exit(EXIT_DIFFERS)


def _run(
    *,
    does_push: bool,
    url: str,
    token: str | None,
    user: str | None,
    as_json: bool,
    **urls: str | None,
) -> bool:
    """Whether something differed."""
    try:
        from observability.grafana.target import Grafana, GrafanaError, wanted_items
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed. Install it: pip install 'tagtrail[grafana]'")
    from observability.deployed import deploy_folder

    given = {kind: address for kind, address in urls.items() if address}
    changes = []
    try:
        target = Grafana(url, token or _read_user(user))
        items = wanted_items(deploy_folder(), given)
        for change in target.push(items) if does_push else target.compare(items):
            changes.append(change)
            if not as_json:
                _print(change, does_push=does_push)
    except GrafanaError as error:
        fail(str(error))
    if as_json:
        click.echo(json.dumps([change.as_dict() for change in changes], indent=2))
    return any(change.action.value != "nothing" for change in changes)


def _read_user(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, colon, password = text.partition(":")
    if not colon:
        raise click.UsageError("--user: expected NAME:PASSWORD.")
    return name, password


def _print(change: Any, *, does_push: bool) -> None:
    done = {
        "create": "made" if does_push else "is missing",
        "update": "changed" if does_push else "differs",
        "nothing": "is as it should be",
    }[change.action.value]
    colour = None if change.action.value == "nothing" else "yellow"
    where = f": {', '.join(change.differences[:5])}" if change.differences else ""
    if len(change.differences) > 5:
        where += f" and {len(change.differences) - 5} more"
    click.echo(f"{change.kind.value} {change.uid} {click.style(done, fg=colour)}{where}")
