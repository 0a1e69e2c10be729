"""One HAProxy, master and workers: written, started, reloaded, stopped.

What is in its files is decided in `render.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable

from observability.instrument.supervision import watch_task
from serve.errors import RayServeException
from serve.ingress.admin import AdminError, send_command
from serve.ingress.folder import RunFolder
from serve.ingress.locate import check_port, find_haproxy
from serve.ingress.master import Master
from serve.ingress.records import Document, IngressSettings

logger = logging.getLogger("ray.serve")

START_TIMEOUT_S = 10.0
RELOAD_TIMEOUT_S = 30.0
CHECK_TIMEOUT_S = 30.0
ORPHAN_GRACE_S = 30
"""How long requests may go on when the parent was killed."""

_POLL_S = 0.02
_TRY_S = 1.0
_PORT_WAIT_S = 1.0


class HAProxyProcess:
    """A HAProxy of our own.

    Args:
        settings: where it listens and keeps its files.
        binary: path of the program. None: `start` looks for one.
        take_line: called with each line that it logs.
    """

    def __init__(
        self,
        settings: IngressSettings,
        binary: str | None = None,
        take_line: Callable[[bytes], None] = lambda line: None,
    ) -> None:
        self._settings = settings
        self._take_line = take_line
        self._explicit_binary = binary
        self._binary = ""
        self._folder = RunFolder(settings.folder)
        self._master: Master | None = None
        self._retired: dict[Master, asyncio.Task[None]] = {}

    @property
    def is_running(self) -> bool:
        """Whether the master is alive."""
        return self._master is not None and self._master.is_running

    @property
    def is_reachable(self) -> bool:
        """Whether its sockets are there: without them it serves on, but can't be told anything."""
        settings = self._settings
        return os.path.exists(settings.master_socket) and os.path.exists(settings.admin_socket)

    @property
    def pid(self) -> int | None:
        """The master's process id; None before the first start."""
        return self._master.pid if self._master else None

    async def start(self, document: Document) -> None:
        """Write the files, check them, start, and return when requests are accepted.

        The event loop's thread becomes the parent: HAProxy stops softly when that thread ends.

        Raises:
            ValueError: the port is not free.
            RayServeException: HAProxy refused the files or did not start; quotes it.
            OSError: the files can't be written, or the process not be started.
        """
        if self.is_running:
            raise RayServeException("HAProxy is running already. Use reload() to change it.")
        self._binary = find_haproxy(self._explicit_binary)
        await self._prepare(document)
        self._folder.take_candidate()
        if self._master is not None:  # it has ended, but what belonged to it has not
            await self._master.end()
        await self._wait_for_port()
        self._master = await self._launch()
        self._folder.remove_old(document)

    async def replace(self, document: Document) -> None:
        """Start another master beside one that can't be reached, and let that one end softly.

        A reload would not do: HAProxy hands its sockets on to the next worker as they are, without
        a name in the folder. Both accept for a moment; what the old one has it finishes.

        Raises:
            RayServeException: HAProxy refused the files or did not start; the old one goes on.
            OSError: the files can't be written, or the process not be started.
        """
        before = self._master
        await self._prepare(document)
        self._folder.take_candidate()
        self._master = await self._launch()
        if before is not None:
            before.stop_softly()
            ending = self._retired[before] = asyncio.create_task(before.until_ended())
            watch_task("end of a replaced HAProxy", ending)
            ending.add_done_callback(lambda _: self._retired.pop(before, None))
        self._folder.remove_old(document)

    async def reload(self, document: Document) -> None:
        """Change to another document without dropping a connection.

        Raises:
            RayServeException: HAProxy refused it; the old one goes on. Quotes HAProxy.
            OSError: the files can't be written; the old one goes on.
        """
        if not self.is_running:
            raise RayServeException("HAProxy is not running. Use start().")
        await self._prepare(document)
        before = self._folder.take_candidate()
        try:
            answer = await send_command(self._settings.master_socket, "reload", RELOAD_TIMEOUT_S)
            if not answer.startswith("Success=1"):
                raise AdminError(f"HAProxy did not reload: {answer}")
        except AdminError:
            self._folder.restore(before)
            raise
        self._folder.remove_old(document)

    def save(self, document: Document) -> None:
        """Write the files for the next start, without telling the running HAProxy."""
        self._folder.write(document)

    async def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the master has ended, for so long at most; its exit code, or None."""
        if self._master is None:
            raise RayServeException("HAProxy was never started.")
        ended = self._master.ended
        await asyncio.wait({ended}, timeout=timeout_s)
        return ended.result() if ended.done() else None

    async def stop(self, grace_s: float) -> None:
        """End all of it: requests under way may finish first, what is left after the limit is cut.

        Args:
            grace_s: limit, seconds. It ends early when no request is under way.
        """
        master = self._master
        if master is None:
            return
        if master.is_running and grace_s > 0:
            master.stop_softly()
            try:
                await asyncio.wait_for(self._wait_for_quiet(master), grace_s)
            except asyncio.TimeoutError:
                logger.warning("HAProxy still had requests after %s s, they are cut.", grace_s)
        for ending in self._retired.values():
            ending.cancel()
        for each in (master, *self._retired):
            if not await each.end():
                logger.warning("HAProxy ignored SIGTERM, it is killed.")

    async def _launch(self) -> Master:
        """Start a master with the files as they are; it accepts requests when this returns."""
        command = [
            self._binary,
            "-W",
            "-S",
            f"{self._settings.master_socket},mode,600,level,admin",
            "-f",
            self._settings.config_path,
        ]
        master = Master(ORPHAN_GRACE_S, self._take_line)
        await master.launch(command, str(self._folder.log))
        try:
            await asyncio.wait_for(self._wait_until_ready(master), START_TIMEOUT_S)
        except BaseException as error:
            await master.end()
            if isinstance(error, (asyncio.TimeoutError, RayServeException)):
                raise RayServeException(
                    f"HAProxy did not start within {START_TIMEOUT_S} s: {error}\n"
                    f"{self._folder.read_log_tail()}"
                ) from error
            raise
        return master

    async def _wait_for_quiet(self, master: Master) -> None:
        """Until no worker has a request: idle connections alone would keep it for a minute."""
        while master.is_running:
            if await self._count_requests() == 0:
                return
            await asyncio.wait({master.ended}, timeout=0.1)

    async def _count_requests(self) -> int:
        """Requests under way or queued, in the current worker and those of earlier reloads."""
        master = self._settings.master_socket
        count = 0
        try:
            for pid in await self._list_workers():
                answer = await send_command(master, f"@!{pid} show stat -1 2 -1", _TRY_S)
                for line in answer.splitlines():
                    if line and not line.startswith("#"):
                        fields = line.split(",")
                        count += int(fields[2] or 0) + int(fields[4] or 0)
        except (AdminError, IndexError, ValueError):
            return 1  # unknown: it is ending, or busy; its exit or the limit decides
        return count

    async def _prepare(self, document: Document) -> None:
        """Write the candidate and have HAProxy check it."""
        self._folder.write_candidate(document)
        await self._check()

    async def _check(self) -> None:
        check = await asyncio.create_subprocess_exec(
            self._binary,
            "-c",
            "-f",
            str(self._folder.candidate),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(check.communicate(), CHECK_TIMEOUT_S)
        except asyncio.TimeoutError:
            check.kill()  # a change that waited for it would keep all later ones waiting
            raise RayServeException(
                f"HAProxy ({self._binary}) did not check its configuration within "
                f"{CHECK_TIMEOUT_S:g} s. What was served before is served on. Is the machine too "
                f"busy? Try '{self._binary} -c -f {self._folder.candidate}'."
            ) from None
        if check.returncode != 0:
            raise RayServeException(
                f"HAProxy refused its configuration:\n{output.decode(errors='replace')}"
            )

    async def _wait_for_port(self) -> None:
        """A HAProxy of before, ours or a killed parent's, may need a moment to let go of it."""
        deadline = asyncio.get_running_loop().time() + _PORT_WAIT_S
        while True:
            try:
                check_port(self._settings.host, self._settings.port)
                return
            except ValueError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(_POLL_S)

    async def _wait_until_ready(self, master: Master) -> None:
        """Until a worker that the master names answers at the runtime socket: it listens by then.

        The folder may hold the sockets of a HAProxy that still ends, so the names are compared.
        """
        while True:
            if not master.is_running:
                raise RayServeException("it ended at once")
            try:
                workers = await self._list_workers()
                info = await send_command(self._settings.admin_socket, "show info", _TRY_S)
                if any(f"Pid: {pid}" in info.splitlines() for pid in workers):
                    return
            except AdminError:
                pass
            await asyncio.sleep(_POLL_S)

    async def _list_workers(self) -> list[str]:
        """Process ids of the current worker and of those that finish requests after a reload."""
        answer = await send_command(self._settings.master_socket, "show proc", _TRY_S)
        return re.findall(r"^(\d+)\s+worker", answer, re.M)
