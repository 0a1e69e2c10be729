"""What `tagtrail doctor` does: looks for one request at every station of the trail's way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from observability.doctor.findings import (
    Finding,
    Station,
    bad,
    conclude,
    first_failure,
    good,
    to_report,
)
from observability.doctor.show import show_finding
from observability.instrument.plain import one_line
from serve.command.cluster import find_instance, reach_ray
from serve.command.exits import EXIT_DIFFERS, EXIT_FAILED
from serve.errors import RayServeException
from serve.ids import random_letters

if TYPE_CHECKING:
    from observability.doctor.facts import Addresses

PROGRAMS = ("agent", "loki", "victoria_logs", "prometheus", "grafana")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--path",
            default="",
            metavar="/PATH",
            help="Ask this endpoint, one GET, instead of a path that no endpoint sees.",
        ),
        click.option("--agent", metavar="URL", help="Log agent: Alloy, Promtail or vlagent."),
        click.option("--loki", metavar="URL", help="Loki."),
        click.option("--victoria-logs", metavar="URL", help="VictoriaLogs."),
        click.option("--prometheus", metavar="URL", help="Prometheus."),
        click.option("--grafana", metavar="URL", help="Grafana."),
        click.option(
            "--grafana-token",
            envvar="GRAFANA_TOKEN",
            show_envvar=True,
            help="To ask Grafana's data sources.",
        ),
        click.option("--grafana-user", metavar="NAME:PASSWORD", help="Instead of a token."),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=1),
            default=30.0,
            show_default=True,
            help="Longest wait at a station, seconds.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_options
@click.pass_obj
def doctor(
    address: str, /, path: str, timeout_s: float, as_json: bool, **options: str | None
) -> None:
    """Send one request and look for it everywhere: does the trail come through?

    In the answer's headers, the segments, the log agent, Loki or VictoriaLogs, the metrics pages,
    Prometheus and Grafana. What is not named is looked for where it usually is on this machine,
    and may be missing; what is named must work.

    Exit code 0: the request is found wherever it should be; 3: it stopped somewhere; 1: there is no
    Ray cluster, or no instance.
    """
    if path and not path.startswith("/"):
        raise click.UsageError("--path: expected a path that begins with '/'.")
    named, auth = _read_addresses(options), _read_auth(options)
    canary_id = f"canary-{random_letters(12)}"
    progress = _Progress(is_on=not as_json and sys.stderr.isatty())
    findings: list[Finding] = []
    for finding in _examine(address, canary_id, path, named, auth, timeout_s, progress):
        findings.append(finding)
        progress.clear()
        if not as_json:
            click.echo(show_finding(finding))
    if as_json:
        click.echo(json.dumps(to_report(findings, canary_id), indent=2))
    else:
        click.echo(f"\n{one_line(conclude(findings))}")
    failure = first_failure(findings)
    if failure is not None:
        is_nothing = len(findings) <= len((Station.RAY, Station.INSTANCE))
        sys.exit(EXIT_FAILED if is_nothing else EXIT_DIFFERS)


def _examine(
    address: str,
    canary_id: str,
    path: str,
    named: Addresses,
    auth: str | tuple[str, str] | None,
    timeout_s: float,
    progress: _Progress,
) -> Iterator[Finding]:
    try:
        reach_ray(address)
    except ConnectionError as error:
        yield bad(
            Station.RAY,
            f"no cluster at '{address}': {error}",
            "Ray does not run there.",
            "ray start --head, or name a running one: tagtrail --address HOST:6379 doctor",
        )
        return
    yield good(Station.RAY, _describe_cluster())
    client = find_instance()
    if client is None:
        yield bad(
            Station.INSTANCE,
            "none runs on this cluster",
            "No detached instance was started, or it was shut down.",
            "tagtrail start",
        )
        return

    from observability.doctor.doctor import Doctor
    from observability.doctor.entrance import Canary
    from observability.doctor.probes import Probes
    from observability.trail.nodes import cluster_folders
    from serve.command.doctor_facts import gather_facts
    from serve.status import describe, find_silent

    try:
        status = client.status()
    except RayServeException as error:
        yield bad(
            Station.INSTANCE, str(error), "The controller does not answer.", "tagtrail status"
        )
        return
    yield _judge_instance(describe(status, client.controller_name), find_silent(status))
    here, others = cluster_folders()
    probes = Probes(auth)
    try:
        yield from Doctor(
            gather_facts(status),
            named,
            Canary(canary_id, path),
            here,
            others,
            probes,
            has_credentials=auth is not None,
            timeout_s=timeout_s,
            waiting=progress.show,
        ).examine()
    finally:
        probes.close()


def _describe_cluster() -> str:
    import ray

    alive = sum(node["Alive"] for node in ray.nodes())
    nodes = "1 node" if alive == 1 else f"{alive} nodes"
    return f"{nodes}, {ray.get_runtime_context().gcs_address}"


def _judge_instance(described: dict[str, Any], silent: Mapping[str, str]) -> Finding:
    """As `tagtrail status` says. `silent`: see `serve.status.find_silent`."""
    backends = described["backends"]
    for tag, clause in silent.items():
        return bad(
            Station.INSTANCE,
            "; ".join(silent.values()),
            f"An event loop is held up or has ended: {clause}.",
            f"See what it does: 'tagtrail logs --replica {tag}'. It is started anew after "
            "health_check_timeout_s.",
        )
    if described["healthy"]:
        running = sum(backend["running"] for backend in backends)
        return good(
            Station.INSTANCE,
            f"healthy; endpoints: {len(described['endpoints'])}, backends: {len(backends)}, "
            f"replicas: {running}",
        )
    wrong = [
        f"ingress on node {ingress['node_id'][:8]}: {ingress['error'] or 'it does not listen yet'}"
        for ingress in described["ingresses"]
        if not ingress["address"]
    ]
    wrong += [
        f"backend {b['tag']}: {b['running']} of {b['goal']} replicas run"
        + (f"; {b['last_error'].strip().splitlines()[-1]}" if b["last_error"] else "")
        for b in backends
        if not b["healthy"]
    ]
    wrong += described["troubles"]
    return bad(
        Station.INSTANCE,
        "; ".join(wrong),
        f"The instance is not at its goal: {wrong[0]}.",
        "tagtrail status",
    )


def _read_addresses(options: dict[str, str | None]) -> Addresses:
    from observability.doctor.facts import Addresses
    from observability.doctor.probes import check_url

    try:
        return Addresses(
            **{name: check_url(options[name] or "") for name in PROGRAMS if options[name]}
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _read_auth(options: dict[str, str | None]) -> str | tuple[str, str] | None:
    token, user = options["grafana_token"], options["grafana_user"]
    if token or not user:
        return token or None
    name, colon, password = user.partition(":")
    if not colon:
        raise click.UsageError("--grafana-user: expected NAME:PASSWORD.")
    return name, password


class _Progress:
    """One line of a terminal that says what is waited for, and is gone with the next finding."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._is_shown = False

    def show(self, station: Station, waited_s: float) -> None:
        """Say it; of what is quick, nothing."""
        if not self._is_on:
            return
        seconds = f" {waited_s:.0f} s" if waited_s >= 1 else ""
        click.echo(f"\r\x1b[K… {station.value}{seconds}", nl=False, err=True)
        self._is_shown = True

    def clear(self) -> None:
        """Take it away."""
        if self._is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._is_shown = False
