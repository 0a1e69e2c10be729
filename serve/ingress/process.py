"""One HAProxy, master and workers: written, started, reloaded, stopped.

What is in its files is decided in `render.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from serve.errors import RayServeException
from serve.ingress.admin import AdminError, send_command
from serve.ingress.guard import Guard, launch_command
from serve.ingress.locate import check_port, find_haproxy
from serve.ingress.pipe import LinePipe
from serve.ingress.records import CONFIG_NAME, Document, IngressSettings

logger = logging.getLogger("ray.serve")

START_TIMEOUT_S = 10.0
RELOAD_TIMEOUT_S = 30.0
ORPHAN_GRACE_S = 30
"""How long requests may go on when the parent was killed."""

_POLL_S = 0.02
_TRY_S = 1.0
_PORT_WAIT_S = 1.0
_CANDIDATE = "candidate.cfg"
_LOG = "haproxy.log"
_OLD_FILE = re.compile(r".+-[0-9a-f]{12}\.(map|json)")


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
        self._pipe = LinePipe(take_line)
        self._explicit_binary = binary
        self._binary = ""
        self._folder = Path(settings.folder)
        self._process: asyncio.subprocess.Process | None = None
        self._guard = Guard(ORPHAN_GRACE_S)

    @property
    def is_running(self) -> bool:
        """Whether the master is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The master's process id; None before the first start."""
        return self._process.pid if self._process else None

    async def start(self, document: Document) -> None:
        """Write the files, check them, start, and return when requests are accepted.

        The event loop's thread becomes the parent: HAProxy stops softly when that thread ends.

        Raises:
            ValueError: the port is not free.
            RayServeException: HAProxy refused the files or did not start; quotes it.
        """
        if self.is_running:
            raise RayServeException("HAProxy is running already. Use reload() to change it.")
        self._binary = find_haproxy(self._explicit_binary)
        self._make_folder()
        self._write_maps(document)
        await self._check(document)
        os.replace(self._folder / _CANDIDATE, self._settings.config_path)
        await self._wait_for_port()
        command = [
            self._binary,
            "-W",
            "-S",
            f"{self._settings.master_socket},mode,600,level,admin",
            "-f",
            self._settings.config_path,
        ]
        write_end = await self._pipe.start()
        try:
            with open(self._folder / _LOG, "ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *launch_command(os.getpid(), command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=log,
                    start_new_session=True,  # a Ctrl-C is the parent's; the group is ours to end
                )
        finally:
            os.close(write_end)
        self._guard.start(self._process.pid)
        try:
            await asyncio.wait_for(self._wait_until_ready(), START_TIMEOUT_S)
        except (asyncio.TimeoutError, RayServeException) as error:
            await self.stop(0)
            raise RayServeException(
                f"HAProxy did not start within {START_TIMEOUT_S} s: {error}\n{self._log_tail()}"
            ) from error
        self._remove_old_files(document)

    async def reload(self, document: Document) -> None:
        """Change to another document without dropping a connection.

        Raises:
            RayServeException: HAProxy refused it; the old one goes on. Quotes HAProxy.
        """
        if not self.is_running:
            raise RayServeException("HAProxy is not running. Use start().")
        self._write_maps(document)
        await self._check(document)
        config = Path(self._settings.config_path)
        before = config.read_bytes()
        os.replace(self._folder / _CANDIDATE, config)
        try:
            answer = await send_command(self._settings.master_socket, "reload", RELOAD_TIMEOUT_S)
            if not answer.startswith("Success=1"):
                raise AdminError(f"HAProxy did not reload: {answer}")
        except AdminError:
            _write(config, before)
            raise
        self._remove_old_files(document)

    def save(self, document: Document) -> None:
        """Write the files for the next start, without telling the running HAProxy."""
        self._write_maps(document)
        _write(Path(self._settings.config_path), document.config.encode())
        self._remove_old_files(document)

    async def wait(self) -> int:
        """Wait until the master has ended; its exit code."""
        if self._process is None:
            raise RayServeException("HAProxy was never started.")
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End all of it: requests under way may finish first, what is left after the limit is cut.

        Args:
            grace_s: limit, seconds. It ends early when no request is under way.
        """
        process = self._process
        if process is None:
            return
        self._guard.stop()
        if process.returncode is None and grace_s > 0:
            _signal(process.pid, signal.SIGUSR1)
            try:
                await asyncio.wait_for(self._wait_for_quiet(process), grace_s)
            except asyncio.TimeoutError:
                logger.warning("HAProxy still had requests after %s s, they are cut.", grace_s)
        if process.returncode is None:
            _signal(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 2)
            except asyncio.TimeoutError:
                logger.warning("HAProxy ignored SIGTERM, it is killed.")
        _signal_group(process.pid)
        await process.wait()
        await self._pipe.drain(_TRY_S)
        self._pipe.stop()

    async def _wait_for_quiet(self, process: asyncio.subprocess.Process) -> None:
        """Until no worker has a request: idle connections alone would keep it for a minute."""
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done():
                if await self._count_requests() == 0:
                    return
                await asyncio.wait({ended}, timeout=0.1)
        finally:
            ended.cancel()

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

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = self._folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            raise RayServeException(
                f"{self._folder} is not a folder of this user's own. Remove it, or choose another."
            )
        self._folder.chmod(0o700)

    def _write_maps(self, document: Document) -> None:
        """Write the candidate and its maps: no file that is in use changes."""
        for name, text in document.files:
            _write(self._folder / (_CANDIDATE if name == CONFIG_NAME else name), text.encode())

    async def _check(self, document: Document) -> None:
        check = await asyncio.create_subprocess_exec(
            self._binary,
            "-c",
            "-f",
            str(self._folder / _CANDIDATE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await check.communicate()
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

    async def _wait_until_ready(self) -> None:
        """Until a worker that the master names answers at the runtime socket: it listens by then.

        The folder may hold the sockets of a HAProxy that still ends, so the names are compared.
        """
        while True:
            if not self.is_running:
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

    def _remove_old_files(self, document: Document) -> None:
        used = {name for name, _ in document.files}
        for path in self._folder.iterdir():
            if path.name not in used and _OLD_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        return (self._folder / _LOG).read_text(errors="replace")[-2000:]


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole. Only its owner reads it: the configuration holds the token."""
    part = path.with_name(path.name + ".part")
    part.touch(0o600)
    part.write_bytes(content)
    os.replace(part, path)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int) -> None:
    """Kill whatever is left of the process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
