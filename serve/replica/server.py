"""The HTTP server inside a replica: uvicorn on the replica's own event loop, on a free port."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from serve.replica.joining import JoiningProtocol

KEEP_ALIVE_S = 24 * 3600
"""HAProxy closes idle connections; if the replica did, a request could meet a closing one."""


class HTTPServer:
    """Serves an ASGI application on `host` and a port that the system chooses.

    Args:
        app: the application.
        host: address to listen on.
        state: what the application's start-up left behind; each request gets a copy. None: nothing.
        before_write: called before anything is sent: what must be in a file by then is written.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        state: dict[str, Any] | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = _listen(host)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=functools.partial(JoiningProtocol, before_write=before_write),  # type: ignore[arg-type]
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            log_level="warning",  # that a server started is told by Tagtrail itself
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._server.lifespan.state.update(state or {})

    async def start(self) -> None:
        """Begin to accept."""
        await self._server.startup(sockets=[self._socket])

    async def stop(self, grace_s: float) -> None:
        """Accept no more, give open connections so long to end, then cut them."""
        try:
            await asyncio.wait_for(self._server.shutdown(sockets=[self._socket]), grace_s)
        except asyncio.TimeoutError:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()


def _listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by accepted connections on Linux: small answers leave at once.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host, 0))
    listener.setblocking(False)
    return listener
