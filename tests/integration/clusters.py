"""Ray clusters that `ray start --block` keeps, for tests of what needs one of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port
from tests.integration.processes import ROOT

START_S = 90
END_S = 60

Process = tuple[int, str]
"""(pid, start time): the pid alone may be another process's by now."""


@dataclass(frozen=True)
class Node:
    """The head node of a cluster, as `ray start --head` makes it.

    Attributes:
        environment: of commands that shall find it.
        pid: process id of `ray start --block`.
        metrics_port: what `--metrics-export-port` names.
    """

    environment: dict[str, str]
    pid: int
    metrics_port: int


def user_environment(folder: Path) -> dict[str, str]:
    """A user whose Ray keeps its files in a folder: this checkout, and no other Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        # A token of the tests' own: with an explicit address Ray does not turn it on by itself.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def head_node(environment: Mapping[str, str], folder: Path, *options: str) -> Iterator[Node]:
    """A cluster of one node, on ports of its own; see `ray_node`."""
    port, metrics_port = free_port(), free_port()
    all_options = (
        *("--head", f"--port={port}", "--num-cpus=8"),
        f"--ray-client-server-port={free_port()}",
        f"--metrics-export-port={metrics_port}",
        *options,
    )
    with ray_node(environment, folder, *all_options) as process:
        address = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        yield Node({**environment, **address}, process.pid, metrics_port)


@contextlib.contextmanager
def ray_node(
    environment: Mapping[str, str], folder: Path, *options: str, prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block` with ports of its own, killed with all it started when the block ends.

    Args:
        environment: of the node.
        folder: its temporary folder, made by the caller, who removes it.
        options: `--head`, `--address=...`, and more.
        prefix: of the command: what makes it run on a host.
    """
    ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    command = [
        *(*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        f"--temp-dir={folder}",
        *(f"--{name}={free_port()}" for name in ports),
        # Any that are free: `ray start` counts up from 10002, as another cluster does meanwhile.
        *("--min-worker-port=0", "--max-worker-port=0"),
        *options,
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while "Ray runtime started." not in (said := _read(log.fileno())):
                assert process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.2)
            yield process
        finally:
            started = descendants(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # at SIGTERM, Ray would drain for 30 s
            for pid, _ in wait_until_gone(started, 2):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(END_S)


def short_folder() -> Path:
    """For a node: Ray's socket paths are limited. Who asks removes it."""
    return Path(tempfile.mkdtemp(prefix="tn", dir="/tmp"))


def name_of(pid: int) -> str:
    """What a process runs; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> set[Process]:
    """All processes under one, whatever session or group they are in."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append((int(entry.name), fields[19]))
    found: set[Process] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child[0])
    return found


def wait_until_gone(processes: set[Process], timeout_s: float = END_S) -> list[Process]:
    """Wait for them to end; those that did not."""
    deadline = time.monotonic() + timeout_s
    while (left := [p for p in processes if _is_alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _is_alive(process: Process) -> bool:
    try:
        fields = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == process[1] and fields[0] != "Z"


def _read(fd: int) -> str:
    return os.pread(fd, 1_000_000, 0).decode(errors="replace")
