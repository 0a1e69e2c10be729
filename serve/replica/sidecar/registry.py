"""Where the replicas of a backend on this node are, in files: one that was just started is found.

A file for each replica, in a folder for each backend: `<host> <HTTP port> <process id>`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator


def registry_folder(session: str, controller_name: str, backend_tag: str) -> str:
    """The folder of a backend, in that of Ray's session."""
    return os.path.join(session, "serve_replicas", _name(f"{controller_name}/{backend_tag}"))


def enter(folder: str, replica_tag: str, host: str, port: int) -> None:
    """Say where this process, a replica, is. OSError: it can't be written."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, _name(replica_tag))
    with open(f"{path}.new", "w") as file:
        file.write(f"{host} {port} {os.getpid()}\n")
    os.replace(f"{path}.new", path)


def leave(folder: str, replica_tag: str, pid: int) -> None:
    """Take away what that process said, if it is the last that said so."""
    path = os.path.join(folder, _name(replica_tag))
    with contextlib.suppress(OSError, ValueError):
        if _read(path)[2] == pid:
            os.unlink(path)


def living(folder: str) -> Iterator[tuple[str, int]]:
    """(host, HTTP port) of each replica whose process exists."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            with contextlib.suppress(OSError, ValueError):
                host, port, pid = _read(os.path.join(folder, name))
                os.kill(pid, 0)
                yield host, port


def _read(path: str) -> tuple[str, int, int]:
    with open(path) as file:
        host, port, pid = file.read().split()
    return host, int(port), int(pid)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]
