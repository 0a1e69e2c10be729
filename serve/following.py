"""Where `tagtrail logs` and `tagtrail trace` look: a folder, the cluster, or its last session."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click

from observability.settings import last_session_folder
from observability.trail.command import Trail
from observability.trail.query import Query, parse_time
from observability.trail.segments import SegmentFolder
from serve.exits import fail


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


def open_trail(address: str, folder: str | None) -> Trail:
    """The records of a folder, else of a running cluster, else of the last session on this machine.

    Args:
        address: Ray cluster; `auto`: the one on this machine, if one runs.
        folder: segments to read without Ray.
    """
    if folder is not None:
        return Trail(_existing(Path(folder)))
    if address == "auto" and not _is_ray_running():
        click.echo("No Ray runs on this machine: this is its last session.", err=True)
        return Trail(_existing(last_session_folder()))
    import ray

    from observability.trail.nodes import cluster_folders

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        fail(f"No Ray cluster found at '{address}' ({error}). --folder reads segments without Ray.")
    here, others = cluster_folders()
    return Trail(here, others)


def _is_ray_running() -> bool:
    from ray._private.services import find_gcs_addresses

    return bool(find_gcs_addresses())


def _existing(path: Path) -> SegmentFolder:
    if not path.is_dir():
        fail(
            f"There is no folder {path}. Expected the segments of a Ray session, "
            "'<session>/logs/serve'; --folder PATH names another one."
        )
    return SegmentFolder(path)
