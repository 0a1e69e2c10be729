"""Backends for tests that need one in an importable module, and what such tests share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

QUICK = {"experimental_graceful_shutdown_wait_loop_s": 0.05}
"""Configuration of backends that tests scale or delete."""


def greet() -> str:
    return "greetings"


class Adder:
    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, request: Any) -> int:
        return self.start + 1


def answer_welcome(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"welcome to {request.scope['root_path']}")


application = Starlette(routes=[Route("/welcome", answer_welcome)])


async def hold_until(request: Any) -> int:
    """Answers once there is a file of this name; at once without a name. Its process id."""
    while request.data and not os.path.exists(request.data):
        await asyncio.sleep(0.01)
    return os.getpid()


class Busy:
    """Counts how many calls are inside at once; none leaves before so many have met."""

    def __init__(self, meeting: int) -> None:
        self._meeting = meeting
        self._inside = 0
        self._most = 0

    async def __call__(self, request: Any) -> None:
        self._inside += 1
        self._most = max(self._most, self._inside)
        while self._most < self._meeting:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # one too many would come now
        self._inside -= 1

    async def most(self, request: Any) -> int:
        return self._most


def read_rss_mb(pid: int) -> float:
    """Resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return 0.0


def find_haproxies(port: int) -> list[int]:
    """Process ids of the HAProxy, master and workers, that is configured to listen on a port."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if words[0].endswith(b"haproxy") and b"-f" in words:
            config = Path(words[words.index(b"-f") + 1].decode())
            if config.exists() and f":{port}\n" in config.read_text():
                found.append(int(folder.name))
    return found


def drain(chunks: Iterable[bytes]) -> int:
    """Read all, keep nothing: how many bytes it was."""
    return sum(len(chunk) for chunk in chunks)
