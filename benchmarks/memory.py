"""Resident memory of an instance's processes on this machine, by what they are. Linux."""

from __future__ import annotations

import os
from pathlib import Path

ROLES = {
    "ray::Controller": "controller",
    "ray::IngressActor": "ingress",
    "haproxy": "HAProxy",
    "ray::RayServeReplica_": "replica",
}
"""What a process's name begins with, and what it is."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(backend: str) -> dict[str, float]:
    """MB by role, of the processes under this one; replicas only of a backend's class or function.

    Args:
        backend: name of its class or function.
    """
    found: dict[str, float] = {}
    for pid in _descendants(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        role = _role(name, backend)
        if role is not None:
            found[role] = found.get(role, 0.0) + pages * _PAGE / 1_000_000
    return found


def _role(name: str, backend: str) -> str | None:
    name = name.rpartition("/")[2] if name.startswith("/") else name
    for beginning, role in ROLES.items():
        wanted = f"{beginning}{backend}" if role == "replica" else beginning
        if name.startswith(wanted):
            return role
    return None


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found
