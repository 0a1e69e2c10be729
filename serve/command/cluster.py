"""How a command comes to a Ray cluster and to the detached instance on it."""

from __future__ import annotations

import atexit
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from observability.instrument.foreign import ForeignNameError
from serve.command.exits import fail

if TYPE_CHECKING:
    from serve.client import Client

REACH_S = 5.0

_NO_RAY = (
    "No Ray cluster found at '{address}'. Start one on this machine with 'ray start --head', or "
    "give the address of a running one: 'tagtrail --address HOST:6379 ...'."
)


def connect_ray(address: str) -> None:
    """Connect this process; ends it, with a message, when there is no cluster."""
    try:
        reach_ray(address)
    except ConnectionError as error:
        fail(f"{_NO_RAY.format(address=address)} ({error})")


def connect_instance(address: str) -> Client:
    """The detached instance; ends this process, with a message, when there is none."""
    connect_ray(address)
    client = find_instance()
    if client is None:
        fail(
            "No detached instance runs on this Ray cluster. Start one with 'tagtrail start', or in "
            "Python with serve.start(detached=True)."
        )
    return client


def reach_ray(address: str) -> None:
    """Connect this process until it ends. ConnectionError: there is no cluster."""
    import ray

    _keep_stdout_clean()  # it says on stdout that a node died, in the middle of our JSON
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(str(error)) from error
    # Ray would do it too, after half a second of waiting for output of the cluster: there is none.
    atexit.register(ray.shutdown)


def _keep_stdout_clean() -> None:
    """Have Ray say on stderr what happens to the cluster, as it does with all other messages."""
    from serve.ray_internals import print_to_stderr_only

    try:
        print_to_stderr_only()
    except ForeignNameError as error:  # the command does what it is for all the same
        click.echo(f"Warning: {error}", err=True)


def is_ray_running(processes: Path = Path("/proc")) -> bool:
    """Whether a Ray node runs on this machine.

    Args:
        processes: where the system shows its processes, if it does.
    """
    # Ray finds its nodes by the names of their processes, but to import it takes half a second.
    # So it is asked only if something here is named like one, or where that can't be seen.
    commands = list(processes.glob("[0-9]*/cmdline"))
    if commands and not any(map(_may_be_node, commands)):
        return False
    from serve.ray_internals import find_clusters

    return bool(find_clusters())


def find_instance() -> Client | None:
    """The detached instance of the cluster that this process is connected to."""
    from serve.api import connect
    from serve.errors import RayServeException

    try:
        return connect()
    except RayServeException:
        return None


def _may_be_node(command: Path) -> bool:
    try:
        return b"raylet" in command.read_bytes()
    except OSError:  # it has ended, or is another user's: Ray could not read it either
        return False


def _check_reachable(address: str) -> None:
    """OSError when nobody listens at HOST:PORT; Ray itself would try for more than a minute."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
