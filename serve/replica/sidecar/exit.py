"""How a process ended. From Linux 6.15 on the kernel tells that others than its parent, too."""

from __future__ import annotations

import fcntl
import signal
import struct
import time

from observability.fields import ENDED_WORDS

WAIT_S = 0.5
"""Longest wait for its parent, who has to take note of the end first, seconds."""

# struct pidfd_info and its ioctl, of linux/pidfd.h.
_INFO = struct.Struct("<Q52xi")
_ASK_FOR_EXIT = 1 << 3
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11


def read_exit(pidfd: int) -> int | None:
    """A dead process's status as `os.wait` has it; None: this kernel does not tell."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        info = bytearray(_INFO.size)
        _INFO.pack_into(info, 0, _ASK_FOR_EXIT, 0)
        try:
            fcntl.ioctl(pidfd, _GET_INFO, info, True)
        except OSError:
            return None
        told, status = _INFO.unpack(info)
        if told & _ASK_FOR_EXIT:
            return int(status)
        time.sleep(0.01)
    return None


def name_exit(status: int | None) -> str:
    """A status in a word or two: `exit code 3`, `SIGKILL`, `unknown`."""
    if status is None:
        return "unknown"
    number = status & 0x7F
    if not number:
        return f"exit code {status >> 8}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_exit(status: int | None) -> str:
    """A status as a sentence, with what it may mean."""
    if status is None:
        return ENDED_WORDS
    name = name_exit(status)
    if not status & 0x7F:
        return f"{ENDED_WORDS}: {name}"
    why = {
        "SIGKILL": ": somebody's kill -9, Ray, or the kernel when memory runs out",
        "SIGSEGV": ": native code of a library, most likely",
        "SIGABRT": ": native code of a library, most likely",
    }.get(name, "")
    return f"{ENDED_WORDS} by {name}{why}"
