"""Processes that outlive the command that started them: start, recognise, stop, by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

_PROC = Path("/proc")
_LOOK_S = 0.05
_KILL_S = 5.0


def start(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: neither Ctrl-C nor the shell's end reach it.

    Args:
        command: executable and arguments.
        folder: where it works.
        log: gets what it says; what was there is kept as `<log>.old`.

    Raises:
        OSError: it can't be started.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.old"))
    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            start_new_session=True,
        )


def identity_of(pid: int) -> str:
    """What tells a process from a later one with the same id; empty: none runs.

    One that has ended and is not yet collected by its parent does not run.
    """
    if not _PROC.is_dir():
        return _ask_ps(pid)
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return ""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{fields[19]}@{boot}"  # field 22 of proc(5): start, in clock ticks since boot
    return fields[19]


def is_running(pid: int, identity: str) -> bool:
    """Whether that very process runs."""
    return identity != "" and identity_of(pid) == identity


def stop(pid: int, identity: str, limit_s: float) -> bool:
    """End a process and its group: politely, then firmly.

    Args:
        pid: of the process, which leads its group.
        identity: of the process; nothing is done if another one has its id by now.
        limit_s: how long it may take to end by itself.

    Returns:
        Whether it ended by itself. True also for one that did not run any more.

    Raises:
        PermissionError: it is another user's.
        TimeoutError: it can't be killed.
    """
    if not is_running(pid, identity):
        return True
    for number, wait_s in ((signal.SIGTERM, limit_s), (signal.SIGKILL, _KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        if _wait_gone(pid, wait_s):
            return number == signal.SIGTERM
    raise TimeoutError(f"process {pid} does not end, not even by SIGKILL")


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log; empty if there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, count)).rstrip()
    except OSError:
        return ""


def _wait_gone(group: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while _has_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _has_members(group: int) -> bool:
    """Whether a process of a group runs. Those that ended and wait to be collected don't."""
    if not _PROC.is_dir():
        listed = _run_ps("-A", "-o", "pgid=,stat=").split("\n")
        rows = (line.split() for line in listed)
        return any(len(row) == 2 and row[0] == str(group) and row[1][0] != "Z" for row in rows)
    for path in _PROC.glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields and fields[2] == str(group) and fields[0] not in "ZX":
            return True
    return False


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on, the state; what is before it may hold blanks."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _ask_ps(pid: int) -> str:
    """Where there is no /proc, as on macOS."""
    stat, _, begun = _run_ps("-p", str(pid), "-o", "stat=,lstart=").strip().partition(" ")
    return "" if not stat or stat.startswith("Z") else begun.strip()


def _run_ps(*options: str) -> str:
    done = subprocess.run(
        ["ps", *options],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
        env={"LC_ALL": "C", "TZ": "UTC0"},  # another shell has to read the same time
    )
    return done.stdout
