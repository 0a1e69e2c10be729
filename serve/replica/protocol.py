"""The HTTP protocol of a replica's port: uvicorn's, for the instance's own ingresses alone.

What HAProxy says of a request in headers is believed, so nobody else may say it: a request without
the instance's token is answered 403 and its code never runs, and a request's headers end where its
head ends. The token is taken out before anybody sees the request.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import Receive, Scope, Send

from serve.ingress_token import TOKEN_HEADER
from serve.replica.cycle import MALFORMED, ReplicaCycle
from serve.replica.joining import JoiningTransport
from serve.replica.sidecar.client import Line, SidecarClient
from serve.replica.uvicorn_internals import (
    HttpToolsProtocol,
    RequestResponseCycle,
    WebSocketsSansIOProtocol,
)

_HEADER = TOKEN_HEADER.lower().encode()
_BODY_HEADERS = frozenset({b"transfer-encoding", b"content-length"})
_REFUSAL = (
    b"This port is for the ingress of its Serve instance only. Send the request to the address "
    b"that 'tagtrail status' shows."
)
Headers = Iterable[tuple[bytes, bytes]]

_UNHEARD = logging.Logger("uvicorn", logging.CRITICAL + 1)
"""What uvicorn says of a connection: of its peer's mistakes as of errors, and nothing that the
request's record does not say better."""


class ReplicaProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, over a JoiningTransport and behind the token.

    Args:
        token: what the ingresses send; whoever sends something else is a stranger.
        tag_headers: of the replica's answers.
        on_stranger: called with a stranger's address.
        before_write: called before anything is sent.
        sidecar: has the connections end well when this process does not.
        **options: uvicorn's.
    """

    def __init__(
        self,
        *,
        token: bytes,
        tag_headers: Headers,
        on_stranger: Callable[[str], None],
        before_write: Callable[[], None],
        sidecar: SidecarClient | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.logger = _UNHEARD
        self._token = token
        self._tag_headers = tag_headers
        self._on_stranger = on_stranger
        self._before_write = before_write
        self._sidecar = sidecar
        self._line: Line | None = None
        self._received = b""
        self._is_in_head = True
        self._is_websocket = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio)."""
        joining = JoiningTransport(transport, self.loop, self._before_sending)  # type: ignore[arg-type]
        if self._sidecar is not None:
            self._line = self._sidecar.cover(transport)
        super().connection_made(joining)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Bytes came (asyncio)."""
        self._received = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            if self._is_websocket:
                self.handle_websocket_upgrade()
        self._received = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed (asyncio)."""
        self.uncover()
        super().connection_lost(exc)

    def uncover(self) -> None:
        """The sidecar lets go of the connection: only then is it closed to the other side."""
        if self._sidecar is not None and self._line is not None:
            self._sidecar.uncover(self._line)
            self._line = None

    def on_message_begin(self) -> None:
        """A request begins (httptools)."""
        self._is_in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """The head is whole (httptools). uvicorn's, with a cycle of ours."""
        self._is_in_head = False
        if self._take_token():
            self.app = self.config.loaded_app
            if self._line is not None:
                self._line.begin(self._received)
        else:
            self.app = _refuse
        parser = self.parser
        version = parser.get_http_version()
        asks_for_other = parser.should_upgrade()
        self._is_websocket = asks_for_other and self._is_handshake()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.headers = []  # trailers go here, where nobody looks
        if not self._is_websocket:  # else `handle_websocket_upgrade` is next
            # After what the parser takes for another protocol no second request can be read.
            keep_alive = not asks_for_other and version != "1.0" and parser.should_keep_alive()
            self._enter(keep_alive=keep_alive)

    def _enter(self, *, keep_alive: bool) -> None:
        """Run the request, after those that came before it on its connection."""
        before = self.cycle
        cycle = self.cycle = ReplicaCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def send_400_response(self, msg: str) -> None:
        """The parser gave up: before a request, of which the ingress then tells, or within one."""
        cycle = self.cycle
        if self._is_in_head or cycle.response_complete:
            super().send_400_response(msg)
            return
        self.scope[MALFORMED] = True  # type: ignore[literal-required]
        cycle.disconnected = True
        cycle.message_event.set()  # the handler hears that nobody waits for its answer
        if not cycle.response_started:
            self._write_answer(b"400 Bad Request", msg.encode(), self._tag_headers)
        self.transport.close()

    def on_response_complete(self) -> None:
        """The answer is written (uvicorn).

        An idle connection is kept: if this end closed it, a request could meet a closing one.
        """
        transport = self.transport
        if self._line is not None and not transport.has_unsent:  # type: ignore[attr-defined]
            self._line.end(0)
        self.server_state.total_requests += 1
        if transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(*self.pipeline.pop())

    def _before_sending(self, size: int) -> None:
        self._before_write()
        line, cycle = self._line, self.cycle
        if line is None:
            return
        if cycle is not None and cycle.response_complete:
            line.end(size)
        elif cycle is None or cycle.response_started:  # without a cycle: a WebSocket's handshake
            line.send(size)
        else:
            line.send_before(size)  # "100 Continue"

    def _should_upgrade(self) -> bool:
        return self._is_websocket

    def _is_handshake(self) -> bool:
        # With a body it is none (RFC 6455, 4.1), and the parser would never call back.
        has_body = any(name in _BODY_HEADERS for name, _ in self.headers)
        return self.parser.get_method() == b"GET" and not has_body and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """The head asked for a WebSocket."""
        if self.app is not _refuse:
            super().handle_websocket_upgrade()
            other = self.transport.get_protocol()
            if isinstance(other, ReplicaWebSocket):
                other.on_lost = self.uncover
            return
        self._write_answer(b"403 Forbidden", _REFUSAL)
        self.transport.close()

    def _write_answer(self, status: bytes, body: bytes, headers: Headers = ()) -> None:
        """Write a whole answer, past ASGI."""
        lines = b"".join(b"%s: %s\r\n" % header for header in (*headers, *_end_headers(body)))
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n" + body)

    def _take_token(self) -> bool:
        """Take the token out of the headers; whether it was the right one."""
        headers = self.headers
        for index in range(len(headers) - 1, -1, -1):  # HAProxy puts it near the end
            name, value = headers[index]
            if name == _HEADER:
                del headers[index]
                if hmac.compare_digest(value, self._token):
                    return True
                break
        self._on_stranger(self.client[0] if self.client else "an unknown address")
        return False


class ReplicaWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; what its peer does wrong is nobody's ERROR."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.logger = _UNHEARD
        self.on_lost: Callable[[], None] = lambda: None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed (asyncio)."""
        self.on_lost()
        super().connection_lost(exc)


def _end_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """Headers of the last answer on a connection."""
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    headers = _end_headers(_REFUSAL)
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSAL})
