"""One request on a connection and its answer: uvicorn's, with a shorter way out.

Each header of an answer is looked at once, by us: uvicorn's own two searches for each were the
dearest part of a small answer.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Send

from serve.replica.answers import encode_head
from serve.replica.uvicorn_internals import RequestResponseCycle

MALFORMED = "serve_is_malformed"
"""Key of a request's scope: its body could not be parsed, and it was answered 400."""

_WITHOUT_BODY = frozenset({204, 304})


class ReplicaCycle(RequestResponseCycle):
    """uvicorn's state of one request; `send` is ASGI's."""

    async def send(self, message: Any) -> None:
        """Take a message of the answer (ASGI).

        Raises:
            BadAnswerError: the head is no HTTP. Nothing of it was sent, another may be.
            RuntimeError: a message out of turn, or a body of another length than was said.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body"))
        elif kind == "http.response.start" and not self.response_started:
            self._send_head(message["status"], message.get("headers", ()))
        else:
            state = "is whole" if self.response_complete else "has begun"
            raise RuntimeError(
                f"ASGI message {kind!r} was sent when the answer "
                f"{state if self.response_started else 'has not begun'}. Expected one "
                "http.response.start, then http.response.body until more_body is false."
            )

    def _send_head(self, status: int, headers: Any) -> None:
        lines, length, is_chunked, closes = encode_head(status, headers)
        self.response_started = True
        self.waiting_for_100_continue = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        if length >= 0:
            self.expected_content_length = length
        elif is_chunked:
            self.chunked_encoding = True
        elif self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines += b"transfer-encoding: chunked\r\n"
        self.transport.write(lines + b"\r\n")

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(data + b"0\r\n\r\n" if is_last else data)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("The answer's body is longer than its Content-Length says.")
            self.transport.write(body)
        if is_last:
            if self.expected_content_length:
                raise RuntimeError(
                    f"The answer's body is {self.expected_content_length} bytes shorter than its "
                    "Content-Length says."
                )
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def has_left(send: Send) -> bool:
    """Whether the client of a cycle's `send` has left, though nobody may have read that yet.

    A write that failed has closed the connection, of which the loop, if it never runs, can't tell.
    """
    cycle = getattr(send, "__self__", None)
    return isinstance(cycle, ReplicaCycle) and (cycle.disconnected or cycle.transport.is_closing())
