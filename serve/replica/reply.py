"""The answer to one HTTP request or WebSocket, on its way out of the replica."""

from __future__ import annotations

import time

from starlette.types import Message, Scope, Send

from observability.instrument.access import CALLER_GONE
from observability.instrument.context import RequestContext
from serve.replica.inbox import Inbox
from serve.replica.protocol import MALFORMED
from serve.replica.trail import ReplicaTrail

Headers = list[tuple[bytes, bytes]]

_SWITCHING = 101
_FORBIDDEN = 403
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_BODIES = frozenset({"http.response.body", "websocket.http.response.body"})


class Reply:
    """ASGI's `send` for one request: adds the tags, and tells the trail when the answer ends.

    Args:
        send: ASGI's, of the server.
        tag_headers: of the replica.
        scope: of the request.
        context: of the request.
        trail: hears of the end once, before the last bytes are sent.
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_bytes_out",
        "_context",
        "_is_ended",
        "_queue_s",
        "_scope",
        "_send",
        "_status",
        "_tag_headers",
        "_trail",
        "error",
        "failure",
        "inbox",
        "is_started",
    )

    def __init__(
        self,
        send: Send,
        tag_headers: Headers,
        scope: Scope,
        context: RequestContext,
        trail: ReplicaTrail,
    ) -> None:
        self._send = send
        self._tag_headers = tag_headers
        self._scope = scope
        self._context = context
        self._trail = trail
        self._arrived = self._begun = time.perf_counter()
        self._queue_s = -1.0
        self._status = 0
        self._bytes_out = 0
        self._is_ended = False
        self.inbox: Inbox | None = None
        self.is_started = False
        self.error = ""
        self.failure: BaseException | None = None

    def begin(self, sent_us: bytes | None) -> None:
        """The wait is over, the handler runs now.

        Args:
            sent_us: when HAProxy had read the request's head, microseconds since the epoch. On
                another node that is another clock's time, so the wait is at least the one here.
        """
        now = self._begun = time.perf_counter()
        waited_s = now - self._arrived
        if sent_us is not None and sent_us.isdigit():
            waited_s = max(waited_s, time.time() - int(sent_us) / 1_000_000)
        self._queue_s = waited_s

    async def send(self, message: Message) -> None:
        """Send one message on. Before the last one the inbox is closed and the records are told.

        A background task of the answer outlives its client.
        """
        kind = message["type"]
        if kind == "websocket.close" and not self.is_started:
            await self._answer(_FORBIDDEN, [], b"")  # what ASGI's servers do, and with the tags
            return
        if kind in _BODIES:
            self._bytes_out += len(message.get("body", b""))
            if not message.get("more_body"):
                if self.inbox is not None:
                    self.inbox.close()
                self.end()
        elif kind in _STARTS:
            self.is_started = True
            is_late = self.inbox is not None and self.inbox.is_disconnected
            self._status = CALLER_GONE if is_late else message.get("status", _SWITCHING)
            headers = message["headers"] = [*message.get("headers", ()), *self._tag_headers]
            if self._context.trace is not None:
                headers.append(
                    (b"traceparent", self._context.trace_headers["traceparent"].encode())
                )
        elif kind == "websocket.send":
            self._bytes_out += len(message.get("bytes") or message.get("text") or "")
        await self._send(message)

    async def refuse(self, status: int, text: str) -> None:
        """Answer with an error of Tagtrail's own."""
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await self._answer(status, headers, text.encode())

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer: to who asked for a WebSocket, too."""
        kind = "http" if self._scope["type"] == "http" else "websocket.http"
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        start = {"type": f"{kind}.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": f"{kind}.response.body", "body": body})

    def end(self) -> None:
        """Tell the trail, once. Called too when no answer, or only a part of one, went out."""
        if self._is_ended:
            return
        self._is_ended = True
        now = time.perf_counter()
        if self._queue_s < 0:  # its turn never came
            self._queue_s, self._begun = now - self._arrived, now
        scope, inbox = self._scope, self.inbox
        is_http = scope["type"] == "http"
        if MALFORMED in scope and self._status in (0, CALLER_GONE):
            self._status, self.error = 400, "bad_request"
        self._trail.end(
            self._context,
            "http" if is_http else "websocket",
            scope["method"] if is_http else "GET",
            scope["path"],
            self._status or (CALLER_GONE if is_http else _FORBIDDEN),
            self._queue_s,
            now - self._begun,
            -1 if inbox is None else inbox.bytes_in,
            self._bytes_out,
            scope["client"][0] if self._trail.has_client_address and scope["client"] else "",
            self.error or self._describe_end(),
            failure=self.failure,
        )
        self.failure = None  # its frames know this object

    def _describe_end(self) -> str:
        if self.inbox is not None and self.inbox.is_disconnected:
            return "client_gone"
        return "" if self._status or self._scope["type"] == "websocket" else "no_answer"


def describe_error(error: BaseException) -> str:
    """An exception in one line, whatever its own text is."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise all
        text = "(its text can't be told)"
    return f"{type(error).__name__}: {text}"[:1000]
