"""Backends for tests that need one in an importable module, and what such tests share."""

from __future__ import annotations

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
