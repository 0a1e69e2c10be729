"""The command `tagtrail`; `python -m serve` is the same thing.

Exit codes: 0 done; 1 it could not be done; 2 wrong usage; 3 (status, diff, doctor) something is not
as it should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from serve.command.cluster import connect_instance, connect_ray
from serve.command.deploy import deploy, diff
from serve.command.doctor import doctor
from serve.command.exits import EXIT_DIFFERS, fail
from serve.command.grafana import grafana
from serve.command.stack import stack


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--address",
    "-a",
    default="auto",
    show_default=True,
    metavar="ADDRESS",
    help="Ray cluster: HOST:PORT, or 'auto' for the one on this machine.",
)
@click.version_option(package_name="tagtrail", prog_name="tagtrail")
@click.pass_context
def cli(context: click.Context, address: str) -> None:
    """Serve Python functions and models on Ray, and find out what happened to each request.

    \b
    A first look, nothing else needed:
        tagtrail demo
    \b
    A long-running instance:
        ray start --head            start Ray on this machine
        tagtrail start              start Serve on it, it stays
        python deploy.py            your script, which calls serve.create_backend(...)
        tagtrail deploy app.yaml    or a file that says what shall run
        tagtrail status             what runs, and where
        tagtrail logs --follow      what the backends say
        tagtrail trace REQUEST_ID   what happened to one request
        tagtrail top                what happens right now
        tagtrail grafana push       dashboards, into a Grafana that runs
        tagtrail stack up           log store, Prometheus, Grafana, on this machine
        tagtrail doctor             whether the trail comes through, and where it stops
        tagtrail shutdown           end Serve; Ray stays
    """  # noqa: D301 - click wants the backspace itself: what follows keeps its lines
    context.obj = address


@cli.command()
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--http-port", default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--http-location",
    type=click.Choice(["HeadOnly", "EveryNode", "NoServer"]),
    default="HeadOnly",
    show_default=True,
    help="Nodes with an HTTP server: the head, every one, or none.",
)
@click.pass_obj
def start(address: str, http_host: str, http_port: int, http_location: str) -> None:
    """Start a detached instance on a running Ray cluster. It stays until 'tagtrail shutdown'."""
    import serve

    connect_ray(address)
    options = {"host": http_host, "port": http_port, "location": http_location}
    try:
        serve.start(detached=True, http_options=options)
    except (serve.RayServeException, ValueError, TimeoutError) as error:
        fail(str(error))
    if http_location == "NoServer":
        click.echo("Serve runs, without an HTTP server.")
    else:
        click.echo(f"Serve runs and listens on http://{http_host}:{http_port}")
    click.echo("Next: run a script that calls serve.create_backend(), then 'tagtrail status'.")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_obj
def status(address: str, as_json: bool) -> None:
    """Show endpoints, backends, replicas and HTTP servers of the detached instance.

    Exit code 0: everything is at its goal; 3: something is not; 1: there is no instance.
    """
    from serve.command.tables import print_status
    from serve.status import describe

    client = connect_instance(address)
    described = describe(client.status(), client.controller_name)
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        print_status(described)
    if not described["healthy"]:
        sys.exit(EXIT_DIFFERS)


@cli.command()
@click.pass_obj
def shutdown(address: str) -> None:
    """End the detached instance with all its replicas. The Ray cluster stays."""
    client = connect_instance(address)
    client.shutdown()
    click.echo("Serve is shut down.")


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where to look, if not at the running cluster."""
    options = (
        click.option("--folder", metavar="PATH", help="Read this folder of segments, without Ray."),
        click.option(
            "--loki",
            metavar="URL",
            help="Read this Loki, without Ray: http://[NAME:PASSWORD@]HOST:3100. Of the last 7 "
            "days, if no time is given.",
        ),
        click.option(
            "--loki-tenant", metavar="ID", help="Whose records, in a Loki of several tenants."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.option("--backend", default="", metavar="TAG", help="Only this backend.")
@click.option("--replica", default="", metavar="TAG", help="Only this replica, also a gone one.")
@click.option("--endpoint", default="", metavar="NAME", help="Only requests to this endpoint.")
@click.option("--request-id", default="", metavar="ID", help="Only this request.")
@click.option(
    "--level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default=None,
    help="This level and those above.",
)
@click.option("--grep", default="", metavar="TEXT", help="Only records that contain this text.")
@click.option("--since", default=None, metavar="TIME", help="30s, 10m, 2h, 1d ago, or a time.")
@click.option("--until", default=None, metavar="TIME", help="As --since: the end.")
@click.option("--follow", "-f", is_flag=True, help="What is written from now on, until Ctrl-C.")
@click.option("--limit", "-n", type=click.IntRange(1), help="Only the last N records.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they are.")
@_place_options
@click.pass_obj
def logs(
    address: str,
    /,
    follow: bool,
    limit: int | None,
    as_json: bool,
    folder: str | None,
    loki: str | None,
    loki_tenant: str | None,
    **options: Any,
) -> None:
    """Show what was recorded, in the order of time, over all replicas and nodes.

    Without a running Ray: of the session that was last on this machine. Exit code 1: nothing found.
    """
    from serve.command.sources import make_query, open_trail

    try:
        query = make_query(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with open_trail(address, folder, loki, loki_tenant) as trail:
        if follow:
            trail.follow_logs(query, as_json=as_json)
        elif not trail.print_logs(query, limit, as_json=as_json):
            since = "1d" if loki is None else "30d"
            fail(
                f"No record found in {trail.describe()}. Leave out an option, or try "
                f"--since {since}."
            )


@cli.command()
@click.argument("request_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a tree.")
@_place_options
@click.pass_obj
def trace(address: str, /, request_id: str, as_json: bool, **place: str | None) -> None:
    """Show one request as a tree: each step, its replica, its times, what was said in it.

    REQUEST_ID is what the answer's X-Request-ID header says. Exit code 1: it is not known.
    """
    from serve.command.sources import open_trail

    with open_trail(address, **place) as trail:
        if not trail.print_request(request_id, as_json=as_json):
            fail(
                f"Request {request_id!r} left no record in {trail.describe()}. Its id is in the "
                "answer's X-Request-ID header; 'tagtrail logs -n 20' shows the last records."
            )


@cli.command()
@click.option(
    "--every",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds between two looks.",
)
@click.option("--count", "-n", type=click.IntRange(1), help="End after N times.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON each time.")
@click.pass_obj
def top(address: str, every: float, count: int | None, as_json: bool) -> None:
    """Show requests/s, errors, times and queues as they are now, until Ctrl-C.

    By endpoint, backend and replica. Times are those in the replica, without waiting.
    """
    from serve.command.top import run_top

    client = connect_instance(address)
    run_top(client.controller_name, every, count, as_json=as_json)


@cli.command()
@click.option(
    "--keep", is_flag=True, help="Stay running afterwards, until Ctrl-C, to be looked at."
)
@click.option("--port", type=int, default=None, help="HTTP port. Default: a free one.")
@click.option(
    "--images", type=click.IntRange(1), default=None, help="How many images to send. Default: all."
)
def demo(keep: bool, port: int | None, images: int | None) -> None:
    """Train two models, serve them 90/10 behind one endpoint, ask them, show who answered.

    Starts a Ray of its own on this machine and ends it. Needs scikit-learn:
    pip install 'tagtrail[demo]'
    """
    from serve.command.demo import DemoError, run_demo

    try:
        run_demo(keep=keep, port=port, images=images)
    except DemoError as error:
        fail(str(error))


cli.add_command(deploy)
cli.add_command(diff)
cli.add_command(grafana)
cli.add_command(stack)
cli.add_command(doctor)


def main() -> None:
    """Entry of the installed command."""
    cli(prog_name="tagtrail")
