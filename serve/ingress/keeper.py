"""Keeps one HAProxy at the table it is told.

Runtime commands where they are enough, reloads elsewhere, restarts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

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
from serve.ingress.records import IngressSettings
from serve.ingress.render import render
from serve.records import IngressTable

logger = logging.getLogger("ray.serve")

_RESTART_PAUSE_S = (0.0, 0.5, 1.0, 2.0, 5.0)
_REMOVAL_MARGIN_S = 10.0


class IngressKeeper:
    """The ingress of one node, without Ray.

    Calls of `start`, `apply` and `stop` come from one event loop; they wait for each other.

    Args:
        settings: of this node.
        binary: HAProxy's path. None: `start` looks for one.
        take_line: called with each line that HAProxy logs.
    """

    def __init__(
        self,
        settings: IngressSettings,
        binary: str | None = None,
        take_line: Callable[[bytes], None] = lambda line: None,
    ) -> None:
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
            RayServeException: HAProxy refused it; the one before stays.
        """
        async with self._lock:
            change = plan_change(self._table, self._reachable(table), self._settings.preferred_node)
            if change.kind is ChangeKind.NOTHING:
                return change.kind
            document = render(change.table, self._settings)
            if change.kind is ChangeKind.RUNTIME and await self._run(change.commands):
                self._process.save(document)
            elif self._process.is_running:
                await self._process.reload(document)
                self._cancel_removals()  # the new worker never had those servers
                self._table = change.table
                return ChangeKind.RELOAD
            else:  # it died just now: supervise() starts it with these files
                self._process.save(document)
            self._table = change.table
            return change.kind

    async def queue_lengths(self) -> dict[str, int]:
        """Requests that wait for a free replica, of each section. AdminError: no answer."""
        return await self._admin.queue_lengths()

    async def stop(self, grace_s: float = 10.0) -> None:
        """End HAProxy; requests under way may take `grace_s` to finish."""
        self._is_wanted = False
        async with self._lock:
            self._cancel_removals()
            await self._process.stop(grace_s)

    async def supervise(self) -> None:
        """Start HAProxy again whenever it ended by itself.

        Returns after `stop`. Call it after `start`.
        """
        failures = 0
        while self._is_wanted:
            code = await self._process.wait()
            async with self._lock:
                if not self._is_wanted:
                    return
                logger.error("HAProxy ended with code %s, it is started again.", code)
                self._cancel_removals()
                try:
                    await self._process.start(render(self._table, self._settings))
                    failures = 0
                    continue
                except (RayServeException, ValueError) as error:
                    failures += 1
                    logger.error("HAProxy could not be started again: %s", error)
            await asyncio.sleep(_RESTART_PAUSE_S[min(failures, len(_RESTART_PAUSE_S) - 1)])

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
