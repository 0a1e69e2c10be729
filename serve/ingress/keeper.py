"""Keeps one HAProxy at the table it is told.

Runtime commands where they are enough, reloads elsewhere, restarts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from observability.instrument.supervision import Troubles, pause_after, process_troubles, watch_task
from serve.errors import RayServeException
from serve.ingress.admin import AdminClient, AdminError
from serve.ingress.plan import (
    AddServer,
    ChangeKind,
    Command,
    RemoveServer,
    SetAddress,
    keep_servers,
    leave_unreachable,
    plan_change,
)
from serve.ingress.process import HAProxyProcess
from serve.ingress.records import Document, IngressSettings
from serve.ingress.render import render
from serve.records import IngressTable

logger = logging.getLogger("ray.serve")

KEEPER = "ingress keeper"
FILES = "ingress files"
REMOVAL = "removal of a drained server"

LOOK_S = 1.0
"""How often it is looked whether HAProxy can still be told something, seconds."""

_REMOVAL_MARGIN_S = 10.0


class IngressKeeper:
    """The ingress of one node, without Ray.

    Calls of `start`, `apply` and `stop` come from one event loop; they wait for each other.

    Args:
        settings: of this node.
        binary: HAProxy's path. None: `start` looks for one.
        take_line: called with each line that HAProxy logs.
        troubles: hear of failures.
    """

    def __init__(
        self,
        settings: IngressSettings,
        binary: str | None = None,
        take_line: Callable[[bytes], None] = lambda line: None,
        troubles: Troubles = process_troubles,
    ) -> None:
        self._troubles = troubles
        self._settings = settings
        self._process = HAProxyProcess(settings, binary, take_line)
        self._admin = AdminClient(settings.admin_socket)
        self._table = IngressTable()
        self._lock = asyncio.Lock()
        self._is_wanted = False
        self._removals: set[asyncio.Task[None]] = set()

    @property
    def is_running(self) -> bool:
        """Whether HAProxy's master is alive."""
        return self._process.is_running

    @property
    def pid(self) -> int | None:
        """Process id of HAProxy's master; None before the first start."""
        return self._process.pid

    @property
    def table(self) -> IngressTable:
        """What is served: the last table, with the last servers of backends that have none now."""
        return self._table

    async def start(self, table: IngressTable) -> None:
        """Start HAProxy; it serves the table when this returns.

        Raises:
            ValueError: the port is taken, or the table holds what cannot be served.
            RayServeException: HAProxy did not start.
        """
        async with self._lock:
            table = keep_servers(IngressTable(), self._reachable(table))
            await self._process.start(render(table, self._settings))
            self._table = table
            self._is_wanted = True

    async def apply(self, table: IngressTable) -> ChangeKind:
        """Serve another table; no request is lost on the way.

        Removed replicas get no new request when this returns; theirs may still be under way.

        Returns:
            How it was done.

        Raises:
            ValueError: the table holds what cannot be served; the one before stays.
            RayServeException: HAProxy refused it, or its files can't be written; the one before
                stays.
        """
        async with self._lock:
            change = plan_change(self._table, self._reachable(table), self._settings.preferred_node)
            if change.kind is ChangeKind.NOTHING:
                return change.kind
            document = render(change.table, self._settings)
            kind = change.kind
            if kind is ChangeKind.RUNTIME and await self._run(change.commands):
                self._save(document)
            elif self._process.is_running:
                await self._change(document)
                kind = ChangeKind.RELOAD
            else:  # it died just now: supervise() starts it with this table
                self._save(document)
            self._table = change.table
            return kind

    async def queue_lengths(self) -> dict[str, int]:
        """Requests that wait for a free replica, of each section. AdminError: no answer."""
        return await self._admin.queue_lengths()

    async def dropped_logs(self) -> tuple[str, int]:
        """HAProxy's worker, and how many log lines it could not write. AdminError: no answer."""
        return await self._admin.dropped_logs()

    async def stop(self, grace_s: float = 10.0) -> None:
        """End HAProxy; requests under way may take `grace_s` to finish."""
        self._is_wanted = False
        async with self._lock:
            self._cancel_removals()
            await self._process.stop(grace_s)

    async def supervise(self) -> None:
        """Start HAProxy again whenever it ended by itself or can't be reached any more.

        Whatever fails is told and tried again. Returns after `stop`. Call it after `start`.
        """
        failures = 0
        self._troubles.expect(KEEPER)
        while self._is_wanted:
            try:
                await self._recover_once()
                failures = 0
                self._troubles.clear(KEEPER)
                continue
            except Exception as error:  # noqa: BLE001 - without its keeper HAProxy would stay away
                pause_s = pause_after(failures)
                self._troubles.tell(KEEPER, error, f"HAProxy is started again in {pause_s:g} s.")
                failures += 1
            await asyncio.sleep(pause_s)

    async def _recover_once(self) -> None:
        """Wait until HAProxy needs help, and give it."""
        code = await self._process.wait(LOOK_S)
        if code is None and self._process.is_reachable:
            return
        async with self._lock:
            if not self._is_wanted:
                return
            document = render(self._table, self._settings)
            if not self._process.is_running:
                logger.error("HAProxy ended with code %s, it is started again.", code)
                self._cancel_removals()
                await self._process.start(document)
            elif not self._process.is_reachable:
                await self._replace(document)

    async def _change(self, document: Document) -> None:
        """Have the running HAProxy take another document."""
        try:
            if self._process.is_reachable:
                await self._process.reload(document)
                self._cancel_removals()  # the new worker never had those servers
            else:
                await self._replace(document)
        except OSError as error:
            raise RayServeException(
                f"The ingress's files can't be written to {self._settings.folder} "
                f"({type(error).__name__}: {error}). What was served before is served on"
            ) from error

    async def _replace(self, document: Document) -> None:
        logger.error(
            "The sockets of the ingress's HAProxy are gone from %s: something cleans that folder. "
            "Another HAProxy takes its place; requests under way finish. Exclude the folder from "
            "the cleaning, or set TMPDIR to one that is not cleaned.",
            self._settings.folder,
        )
        await self._process.replace(document)
        self._cancel_removals()

    def _save(self, document: Document) -> None:
        """Have the files say what is served. HAProxy has it already, and a start writes them."""
        try:
            self._process.save(document)
            self._troubles.clear(FILES)
        except OSError as error:
            self._troubles.tell(FILES, error, "What changed is served all the same.")

    def _reachable(self, table: IngressTable) -> IngressTable:
        return leave_unreachable(table, self._settings.node_id)

    async def _run(self, commands: tuple[Command, ...]) -> bool:
        """Send the commands; False when one failed, and a reload must do it."""
        try:
            for command in commands:
                await self._send(command)
        except AdminError as error:
            logger.warning("A runtime command failed, HAProxy is reloaded instead: %s", error)
            return False
        return True

    async def _send(self, command: Command) -> None:
        if isinstance(command, AddServer):
            await self._admin.add_server(
                command.section,
                command.server,
                command.host,
                command.port,
                command.max_connections,
            )
        elif isinstance(command, SetAddress):
            await self._admin.set_address(
                command.section, command.server, command.host, command.port
            )
        else:
            await self._admin.drain_server(command.section, command.server)
            removal = asyncio.create_task(self._remove(command))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            watch_task(REMOVAL, removal, self._troubles)

    async def _remove(self, command: RemoveServer) -> None:
        """Delete a drained server once its requests are done.

        A reload would forget it all the same.
        """
        limit_s = self._settings.request_timeout_s + _REMOVAL_MARGIN_S
        try:
            await self._admin.remove_server(command.section, command.server, limit_s)
        except AdminError as error:
            logger.warning("A drained server stays until the next reload: %s", error)

    def _cancel_removals(self) -> None:
        for removal in self._removals:
            removal.cancel()
