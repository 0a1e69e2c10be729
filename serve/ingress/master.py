"""One HAProxy master as a process: launched, tied to this one's life, ended. Knows no files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from serve.ingress.guard import Guard, launch_command
from serve.ingress.pipe import LinePipe

TERM_S = 2.0
KILL_S = 2.0
DRAIN_S = 1.0


class Master:
    """A HAProxy's master and all that belongs to it.

    Args:
        grace_s: how long requests may go on when this process is killed, whole seconds.
        take_line: called with each line that HAProxy logs.
    """

    def __init__(self, grace_s: int, take_line: Callable[[bytes], None]) -> None:
        self._guard = Guard(grace_s)
        self._pipe = LinePipe(take_line)
        self._process: asyncio.subprocess.Process
        self.ended: asyncio.Future[int]
        """Its exit code, once it has one. One for all who wait: asyncio keeps each waiter."""

    @property
    def is_running(self) -> bool:
        """Whether it is alive."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    async def launch(self, command: list[str], log_path: str) -> None:
        """Start it. The event loop's thread becomes the parent: HAProxy ends softly with it.

        Raises:
            OSError: no descriptors or no process to be had; nothing is left behind.
        """
        write_end = await self._pipe.start()
        try:
            with open(log_path, "ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *launch_command(os.getpid(), command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=log,
                    start_new_session=True,  # a Ctrl-C is the parent's; the group is ours to end
                )
        except BaseException:
            self._pipe.stop()
            raise
        finally:
            os.close(write_end)
        self.ended = asyncio.ensure_future(self._process.wait())
        try:
            self._guard.start(self.pid)
        except BaseException:
            await self.end()
            raise

    def stop_softly(self) -> None:
        """Have it accept no more, and end once its requests are done."""
        _signal(self.pid, signal.SIGUSR1)

    async def end(self) -> bool:
        """End it and its workers now. False: it ignored SIGTERM and was killed."""
        self._guard.stop()
        is_polite = True
        if self.is_running:
            _signal(self.pid, signal.SIGTERM)
            is_polite = bool((await asyncio.wait({self.ended}, timeout=TERM_S))[0])
        _signal_group(self.pid)
        await asyncio.wait({self.ended}, timeout=KILL_S)
        await self._pipe.drain(DRAIN_S)
        self._pipe.stop()
        return is_polite

    async def until_ended(self) -> None:
        """Wait for its own end, and let go of what belonged to it."""
        await asyncio.shield(self.ended)
        await self.end()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int) -> None:
    """Kill whatever is left of the process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
