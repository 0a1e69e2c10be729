"""The answer to one HTTP request or WebSocket, on its way out of the replica."""

from __future__ import annotations

import math
from collections.abc import Callable

from starlette.types import Message, Scope, Send

from observability.instrument.access import CALLER_GONE
from serve.replica.answers import check_head
from serve.replica.cycle import MALFORMED, has_left
from serve.replica.inbox import Inbox
from serve.replica.uvicorn_internals import ClientDisconnected
from serve.replica.visit import Visit

Headers = list[tuple[bytes, bytes]]

CLOCKS_S = 0.05
"""By so much HAProxy's clock may differ from ours."""

SWITCHING = 101
_FORBIDDEN = 403
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_BODIES = frozenset({"http.response.body", "websocket.http.response.body"})


class Reply:
    """ASGI's `send` for one request: adds the tags, and tells the trail when the answer ends.

    Args:
        send: ASGI's, of the server.
        tag_headers: of the replica.
        scope: of the request.
        visit: told before the last bytes leave.
        hold: calls what it is given before the next bytes leave.
        timeout_s: after so long a silence HAProxy gives up, seconds.

    Attributes:
        inbox: of the request, once there is one.
        is_started: the answer's head was sent.
        is_whole: its last piece was sent.
    """

    __slots__ = (
        "_hold",
        "_is_stream",
        "_scope",
        "_send",
        "_tag_headers",
        "_timeout_s",
        "inbox",
        "is_started",
        "is_whole",
        "visit",
    )

    def __init__(
        self,
        send: Send,
        tag_headers: Headers,
        scope: Scope,
        visit: Visit,
        hold: Callable[[Callable[[], None]], None],
        timeout_s: float = math.inf,
    ) -> None:
        self._send = send
        self._tag_headers = tag_headers
        self._scope = scope
        self.visit = visit
        self._hold = hold
        self._timeout_s = timeout_s
        self.inbox: Inbox | None = None
        self.is_started = self.is_whole = self._is_stream = False

    async def send(self, message: Message) -> None:
        """Send one message on. With the last one the inbox is closed, and the visit ends.

        A background task of the answer outlives its client.
        """
        kind = message["type"]
        if kind in _BODIES:
            await self._send_body(message)
        elif kind in _STARTS:
            await self._start(message)
        elif kind == "websocket.close" and not self.is_started:
            await self._answer(_FORBIDDEN, [], b"")  # what ASGI's servers do, and with the tags
        else:
            if kind == "websocket.send":
                size = len(message.get("bytes") or message.get("text") or "")
                self.visit.bytes_out += size
            await self._pass_on(message)
            if kind == "websocket.close":
                self.visit.close_code = message.get("code", 1000)

    async def _start(self, message: Message) -> None:
        headers = [*message.get("headers", ()), *self._tag_headers]
        if self.inbox is None:  # uvicorn's WebSockets do not look
            check_head(message.get("status", 200), headers)
        context = self.visit.context
        if context.trace is not None:
            headers.append((b"traceparent", context.trace_headers["traceparent"].encode()))
        message["headers"] = headers
        is_late = self._is_client_gone()
        await self._send(message)
        self.visit.note_sent()
        self.is_started = True
        self.visit.status = CALLER_GONE if is_late else message.get("status", SWITCHING)

    async def _send_body(self, message: Message) -> None:
        is_last = not message.get("more_body")
        if not self._is_client_gone():
            self.visit.bytes_out += len(message.get("body", b""))
        elif not is_last:  # dropped by the server, which lets nobody else run: without an end
            raise ClientDisconnected
        if is_last:
            if self.inbox is not None:
                self.inbox.close()
            self._hold(self.end)
        if self._is_stream or not is_last:
            self._is_stream = True
            await self._pass_on(message)
        else:  # one piece: nothing before it can make it wait
            await self._send(message)
        self.is_whole = is_last

    async def _pass_on(self, message: Message) -> None:
        """A client that reads slowly, or HAProxy for it, makes this wait."""
        self.visit.begin_sending()
        await self._send(message)
        self.visit.end_sending()

    async def refuse(self, status: int, text: str) -> None:
        """Answer with an error of Tagtrail's own."""
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await self._answer(status, headers, text.encode())

    def _is_client_gone(self) -> bool:
        """Whether the request's client has left, though nobody may have read that yet."""
        inbox = self.inbox
        if inbox is None:
            return False
        if not inbox.is_disconnected and has_left(self._send):
            inbox.is_disconnected = True
        return inbox.is_disconnected

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer: to who asked for a WebSocket, too."""
        kind = "http" if self._scope["type"] == "http" else "websocket.http"
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        start = {"type": f"{kind}.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": f"{kind}.response.body", "body": body})

    def end(self) -> None:
        """End the visit, once. Called too when no answer, or only a part of one, went out."""
        visit, inbox = self.visit, self.inbox
        if visit.is_ended:
            return
        is_gone = inbox is not None and inbox.is_disconnected
        is_given_up = is_gone and visit.silent_s >= self._timeout_s - CLOCKS_S
        if is_given_up and not self.is_started:
            visit.withdraw()  # it was answered 504, of which the ingress tells
            return
        if MALFORMED in self._scope and visit.status in (0, CALLER_GONE):
            visit.status, visit.error = 400, "bad_request"
        elif not visit.error:
            gone = "replica_timeout" if is_given_up else "client_gone"
            visit.error = gone if is_gone else "" if visit.status else "no_answer"
        if not visit.status:
            visit.status = CALLER_GONE
        if inbox is not None:
            visit.bytes_in = inbox.bytes_in
        visit.end()
