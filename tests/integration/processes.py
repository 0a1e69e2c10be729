"""What runs on this machine for an instance, seen from outside; scripts, run as users run them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent.parent

T = TypeVar("T")


LONGEST_PAUSE_S = 0.25


def wait_until(get: Callable[[], T], timeout_s: float = 60.0) -> T:
    """The first true value that `get` gives; AssertionError with its last one after `timeout_s`.

    Asked more and more seldom: what takes seconds takes longer while it is asked about.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.02
    while not (value := get()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last seen: {value!r}"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
    return value


def run_folders(port: int) -> list[Path]:
    """Folders of the ingresses that listen, or listened, on a port."""
    listens = re.compile(rf"^\s*bind\s+\S*:{port}\b", re.M)
    found = []
    for config in Path(tempfile.gettempdir()).glob("tagtrail-*/haproxy.cfg"):
        try:
            if listens.search(config.read_text()):
                found.append(config.parent)
        except OSError:
            continue  # it went away since it was listed
    return found


def haproxies(folder: Path) -> set[int]:
    """Process ids of the HAProxy that runs in a folder, its master and its workers."""
    return {pid for pid, command in _commands() if "haproxy" in command and f"{folder}/" in command}


def masters(folder: Path) -> set[int]:
    """Process ids of HAProxy's masters in a folder: those whose parent is no HAProxy."""
    pids = haproxies(folder)
    return {pid for pid in pids if parent_of(pid) not in pids}


def parent_of(pid: int) -> int:
    """Process id of the parent; 0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and is not yet collected does not.

    Its first thread may have ended before the others, which hold its files and sockets until then.
    """
    states = []
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):  # it ended while it was looked at
        for task in os.listdir(tasks):
            with contextlib.suppress(OSError):
                text = (tasks / task / "stat").read_text()
                states.append(text.rpartition(")")[2].split()[0])
    return any(state not in "ZX" for state in states)


def run_script(
    code: str, *args: object, timeout_s: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script as `python script.py args` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_script(code, Path(folder))
        return subprocess.run(
            [sys.executable, str(path), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=script_env(env),
            check=False,
        )


def start_script(code: str, folder: Path, *args: object) -> subprocess.Popen[str]:
    """Start a script and return; what it prints is read from `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-u", str(write_script(code, folder)), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=script_env(None),
    )


def hear_ctrl_c() -> None:
    """For `preexec_fn`: what a shell runs in the background ignores Ctrl-C, with all it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_script(code: str, folder: Path) -> Path:
    """A script file, its code freed of the indentation it has in a test."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(code))
    return path


def script_env(more: dict[str, str] | None) -> dict[str, str]:
    """An environment in which the project is found, and no Ray but the one the script names."""
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}
    env.pop("RAY_ADDRESS", None)
    return env


def run_python(
    environment: dict[str, str], *args: str, prefix: tuple[str, ...] = (), timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in the project's folder, behind what makes it run elsewhere."""
    return subprocess.run(
        [*prefix, sys.executable, *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        cwd=ROOT,
        check=False,
    )


def _commands() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue  # it ended since it was listed
    return found
