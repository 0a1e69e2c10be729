"""HAProxy must not outlive its parent, however that one ends, and must not cut requests for it.

Two mechanisms, as each has a gap. On Linux the master asks the kernel for SIGUSR1 (its soft stop)
when its parent dies: at once, but nobody would end what is left later, and other systems lack it.
So a shell stands by: it reads a pipe whose only other end the parent holds, and at its end stops
HAProxy softly, then firmly. `hard-stop-after` in the configuration was rejected: it would also cut
streams and WebSockets at every reload.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

KILL_S = 2.0

_LAUNCH = """\
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGUSR1, 0, 0, 0)  # PR_SET_PDEATHSIG; an exec keeps it
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

_GUARD = """\
read -r _
kill -USR1 "$1" 2>/dev/null || exit 0
left=$2
while [ "$left" -gt 0 ] && kill -0 "$1" 2>/dev/null; do sleep 1; left=$((left - 1)); done
kill -TERM "$1" 2>/dev/null
"""


def launch_command(parent_pid: int, command: list[str]) -> list[str]:
    """A command that becomes `command` once it is tied to the life of the thread that starts it."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(parent_pid), *command]


class Guard:
    """The shell that stands by.

    Args:
        grace_s: how long requests may take to finish after the parent's death, whole seconds.
    """

    def __init__(self, grace_s: int) -> None:
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, pid: int) -> None:
        """Watch over a process, in place of the one before."""
        self.stop()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "ingress-guard", str(pid), str(self._grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the watch; nothing happens to the watched process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is the system's to end it
            process.wait(KILL_S)
        if process.stdin is not None:
            process.stdin.close()
