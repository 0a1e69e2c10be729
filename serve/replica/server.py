"""The HTTP server inside a replica: uvicorn on the replica's own event loop, on free ports."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Iterable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from serve.replica.protocol import ReplicaProtocol, ReplicaWebSocket
from serve.replica.sidecar.client import SidecarClient
from serve.strangers import Strangers


class HTTPServer:
    """Serves an ASGI application to the ingresses of its instance, on ports the system chooses.

    Args:
        app: the application.
        token: what the ingresses send with each request.
        tag_headers: of the replica, on what the server itself answers.
        state: what the application's start-up left behind; each request gets a copy. None: nothing.
        before_write: called before anything is sent: what must be in a file by then is written.
        sidecar: answers for this process when it dies. None: nobody does.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        tag_headers: Iterable[tuple[bytes, bytes]] = (),
        state: dict[str, Any] | None = None,
        before_write: Callable[[], None] = lambda: None,
        sidecar: SidecarClient | None = None,
    ) -> None:
        if not token:
            raise ValueError("HTTPServer needs a token: an empty one would admit everybody.")
        self._sockets: list[socket.socket] = []
        self._sidecar = sidecar
        config = uvicorn.Config(
            app,
            http=functools.partial(  # type: ignore[arg-type]
                ReplicaProtocol,
                token=token.encode(),
                tag_headers=tag_headers,
                on_stranger=Strangers("An HTTP request").note,
                before_write=before_write,
                sidecar=sidecar,
            ),
            ws=ReplicaWebSocket,
            lifespan="off",
            log_config=None,
            log_level="warning",  # that a server started is told by Tagtrail itself
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._server.lifespan.state.update(state or {})

    async def listen(self, host: str) -> int:
        """Accept requests at an address of this machine too; the port."""
        listener = _listen(host)
        if self._sidecar is not None:
            self._sidecar.cover_listener(listener)
        self._sockets.append(listener)
        before = self._server.servers if self._server.started else []
        await self._server.startup(sockets=[listener])
        self._server.servers[:0] = before  # uvicorn keeps those of its last start-up only
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no more, give open connections so long to end, then cut them."""
        try:
            await asyncio.wait_for(self._server.shutdown(sockets=self._sockets), grace_s)
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
