"""Client of HAProxy's sockets: the runtime socket of the current worker, and the master's.

One connection, one command, one answer. Every call has a time limit, and an error quotes what
HAProxy said.
"""

from __future__ import annotations

import asyncio
import csv
from dataclasses import dataclass

from serve.errors import RayServeException
from serve.ingress.render import format_address

_POLL_S = 0.05


class AdminError(RayServeException):
    """HAProxy refused a command, or did not answer."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as HAProxy sees it.

    Attributes:
        section: name of its section.
        server: its name.
        status: such as `no check` (takes requests), `DRAIN`, `MAINT`.
        address: `host:port`.
        sessions: requests under way at it.
    """

    section: str
    server: str
    status: str
    address: str
    sessions: int


async def send_command(path: str, command: str, timeout_s: float = 5.0) -> str:
    """Send one command and return the whole answer, without white space at its ends.

    Raises:
        AdminError: no answer within the limit, or nobody listens there.
    """
    try:
        return await asyncio.wait_for(_exchange(path, command), timeout_s)
    except (OSError, asyncio.TimeoutError) as error:
        raise AdminError(
            f"HAProxy did not answer {command!r} at {path} within {timeout_s} s: {error!r}. "
            "Is it running?"
        ) from error


async def _exchange(path: str, command: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path, limit=2**24)
    try:
        writer.write(command.encode() + b"\n")
        writer.write_eof()  # the master's socket stays open without it
        return (await reader.read(-1)).decode(errors="replace").strip()
    finally:
        writer.close()


class AdminClient:
    """The runtime commands an ingress needs.

    Args:
        path: of the runtime socket.
        timeout_s: limit for each command, seconds.
    """

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def add_server(
        self, section: str, server: str, host: str, port: int, max_connections: int
    ) -> None:
        """Create a server and let it take requests.

        Raises:
            AdminError: HAProxy refused, for example because the name exists.
        """
        address = format_address(host, port)
        command = f"add server {section}/{server} {address} maxconn {max_connections}"
        await self._command(command, "New server registered.")
        await self._command(f"enable server {section}/{server}", "")

    async def drain_server(self, section: str, server: str) -> None:
        """Give a server no new request; those under way finish."""
        await self._command(f"set server {section}/{server} state drain", "")

    async def remove_server(self, section: str, server: str, timeout_s: float) -> None:
        """Wait until a server has no request under way, then delete it.

        Args:
            section: name of its section.
            server: its name; it should be draining.
            timeout_s: how long to wait for its requests, seconds.

        Raises:
            AdminError: HAProxy refused, or the requests did not finish in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while count := await self._sessions(section, server):
            if loop.time() > deadline:
                raise AdminError(
                    f"Server {section}/{server} still has {count} requests after {timeout_s} s. "
                    "It stays in drain and takes no new ones."
                )
            await asyncio.sleep(_POLL_S)
        await self._command(f"set server {section}/{server} state maint", "")
        while True:
            answer = await self._send(f"del server {section}/{server}")
            if answer == "Server deleted.":
                return
            if loop.time() > deadline or "still has" not in answer:
                raise AdminError(f"HAProxy did not delete {section}/{server}: {answer}")
            await asyncio.sleep(_POLL_S)

    async def set_address(self, section: str, server: str, host: str, port: int) -> None:
        """Move a server to another address.

        Raises:
            AdminError: HAProxy refused.
        """
        format_address(host, port)
        answer = await self._send(f"set server {section}/{server} addr {host} port {port}")
        if "changed from" not in answer and "no need to change" not in answer:
            raise AdminError(f"HAProxy did not move {section}/{server} to {host}:{port}: {answer}")

    async def list_servers(self, section: str | None = None) -> list[ServerState]:
        """The servers of a section, or of all of them."""
        answer = await self._send(f"show stat {section or -1} 4 -1")
        rows = csv.DictReader(answer.removeprefix("# ").splitlines())
        return [
            ServerState(
                row["pxname"], row["svname"], row["status"], row["addr"], int(row["scur"] or 0)
            )
            for row in rows
        ]

    async def queue_lengths(self) -> dict[str, int]:
        """Requests that wait for a free server, of each section."""
        answer = await self._send("show stat -1 2 -1")
        rows = csv.DictReader(answer.removeprefix("# ").splitlines())
        return {row["pxname"]: int(row["qcur"] or 0) for row in rows}

    async def dropped_logs(self) -> tuple[str, int]:
        """The current worker's process id, and how many log lines it could not write so far."""
        answer = await self._send("show info")
        facts = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
        return facts["Pid"], int(facts["DroppedLogs"])

    async def _sessions(self, section: str, server: str) -> int:
        for state in await self.list_servers(section):
            if state.server == server:
                return state.sessions
        raise AdminError(f"HAProxy has no server {section}/{server}.")

    async def _command(self, command: str, expected: str) -> None:
        answer = await self._send(command)
        if answer != expected:
            raise AdminError(f"HAProxy refused {command!r}: {answer}")

    async def _send(self, command: str) -> str:
        return await send_command(self._path, command, self._timeout_s)
