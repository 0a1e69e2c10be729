"""Whether a program that was started runs, and answers."""

from __future__ import annotations

import http.client
import subprocess
import time
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from observability.stack import process
from observability.stack.services import HOST, StackError
from observability.stack.state import Started

_ASK_S = 2.0
_LOOK_S = 0.1


class Health(Enum):
    """How a program is that was started."""

    HEALTHY = "healthy"
    NOT_HEALTHY = "not healthy"
    GONE = "gone"


def health_of(started: Started) -> Health:
    """How it is now."""
    if not process.is_running(started.pid, started.identity):
        return Health.GONE
    return Health.HEALTHY if _answers(started.health_url) else Health.NOT_HEALTHY


def _answers(url: str) -> bool:
    """Whether 200 comes back. No proxy is asked, whatever the environment says."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=_ASK_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_healthy(started: Started, child: subprocess.Popen[bytes] | None, limit_s: float) -> None:
    """Wait for it.

    Args:
        started: the program.
        child: its process, if this one has started it.
        limit_s: how long.

    Raises:
        StackError: it ended, or does not answer within the limit; with the end of its log.
    """
    deadline = time.monotonic() + limit_s
    while True:
        if child is None:
            has_ended, how = not process.is_running(started.pid, started.identity), ""
        else:
            has_ended, how = child.poll() is not None, f" with exit code {child.returncode}"
        if has_ended:
            raise StackError(f"{started.name} ended{how} before it was healthy. {_told(started)}")
        if _answers(started.health_url):
            return
        if time.monotonic() > deadline:
            raise StackError(
                f"{started.name} runs, but {started.health_url} did not say 200 within "
                f"{limit_s:g} s. {_told(started)}"
            )
        time.sleep(_LOOK_S)


def _told(started: Started) -> str:
    lines = process.last_lines(Path(started.log))
    if not lines:
        return f"It said nothing ({started.log})."
    return f"The end of {started.log}:\n{lines}"
