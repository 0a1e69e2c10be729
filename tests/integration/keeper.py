"""A program that a test runs: started, killed, started again, and gone in the end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.integration.processes import wait_until

START_S = 60
END_S = 60


@dataclass
class Keeper:
    """One program: started, killed, started again.

    Attributes:
        command: what starts it.
        health: URL that answers 200 when it is up.
        log: file of what it says.
    """

    command: list[str]
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self._is_up, START_S)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started, and gone with the block."""
        try:
            self.start()
            yield
        finally:
            self.stop()

    def kill(self) -> None:
        """As a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(self.health, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, how: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(END_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None
