"""Where `tagtrail logs` and `trace` look: a Loki, a folder, the cluster, or its last session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import click

from observability.settings import last_session_folder
from observability.trail.cluster import Cluster
from observability.trail.command import Trail
from observability.trail.query import Query, parse_time
from observability.trail.segments import SegmentFolder
from observability.trail.source import Place, Present, SourceError
from serve.command.cluster import is_ray_running, reach_ray
from serve.command.exits import fail


def make_query(
    *,
    backend: str,
    replica: str,
    endpoint: str,
    request_id: str,
    level: str | None,
    grep: str,
    since: str | None,
    until: str | None,
) -> Query:
    """The query that a command's options ask for. ValueError for a time that is none."""
    now = datetime.now(timezone.utc)
    return Query(
        backend,
        replica,
        endpoint,
        request_id,
        (level or "").upper(),
        grep,
        parse_time(since, now) if since else "",
        parse_time(until, now) if until else "",
    )


@contextlib.contextmanager
def open_trail(
    address: str, folder: str | None, loki: str | None, loki_tenant: str | None
) -> Iterator[Trail]:
    """The records of a Loki or a folder, else of a running cluster, else of its last session.

    What can't be asked ends the command with a message.

    Args:
        address: Ray cluster; `auto`: the one on this machine, if one runs.
        folder: segments to read without Ray.
        loki: address of a Loki to read from instead, without Ray.
        loki_tenant: whose records, in a Loki of several tenants.
    """
    if loki is not None and folder is not None:
        raise click.UsageError("--loki and --folder are two places to look in. Give one of them.")
    if loki is None and loki_tenant is not None:
        raise click.UsageError("--loki-tenant needs the address of the Loki: --loki URL.")
    try:
        if loki is not None:
            yield Trail(_open_loki(loki, loki_tenant))
        else:
            yield Trail(_open_segments(address, folder))
    except SourceError as error:
        fail(str(error))


def _open_loki(url: str, tenant: str | None) -> Place:
    from observability.loki.client import LokiClient
    from observability.loki.source import LokiSource

    return LokiSource(LokiClient(url, tenant))


def _open_segments(address: str, folder: str | None) -> Place:
    if folder is not None:
        return Cluster(_existing(Path(folder)))
    if address == "auto" and not is_ray_running():
        click.echo("No Ray runs on this machine: this is its last session.", err=True)
        return Cluster(_existing(last_session_folder()), ask=lambda _: Present())
    try:
        reach_ray(address)
    except ConnectionError as error:
        fail(f"No Ray cluster found at '{address}' ({error}). --folder reads segments without Ray.")

    from observability.trail.nodes import cluster_folders
    from serve.command.present import ask_replicas

    here, others = cluster_folders()
    return Cluster(here, others, ask_replicas)


def _existing(path: Path) -> SegmentFolder:
    if not path.is_dir():
        fail(
            f"There is no folder {path}. Expected the segments of a Ray session, "
            "'<session>/logs/serve'; --folder PATH names another one."
        )
    return SegmentFolder(path)
