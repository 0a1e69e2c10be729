"""Ends processes of an instance as a fault would."""

from __future__ import annotations

import os
import signal

import serve
from tests.integration.processes import is_alive, wait_until


def kill_controller() -> int:
    """SIGKILL; its old process id. Ray starts it anew."""
    pid = serve.connect().status().pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    return pid
