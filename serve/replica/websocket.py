"""How a WebSocket ends at a replica: who closed it, and with which code."""

from __future__ import annotations

from starlette.types import Message, Receive

from serve.replica.failures import is_of_client
from serve.replica.reply import SWITCHING, Reply

CLOSED = 1000
LOST = 1006
"""No close frame came (RFC 6455, 7.1.5)."""

FAILED = 1011
_NO_CODE = 1005


class WebSocketLine:
    """The messages of one WebSocket's client, and the end of the conversation.

    Args:
        receive: ASGI's, of the server.
        reply: to the client.
    """

    def __init__(self, receive: Receive, reply: Reply) -> None:
        self._receive = receive
        self._reply = reply
        self.is_disconnected = False

    async def receive(self) -> Message:
        """The next message: ASGI's `receive`."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._note_end(message)
        return message

    async def close(self, code: int, reason: str = "") -> None:
        """Close it if nobody has: the application is done with it."""
        visit = self._reply.visit
        if visit.close_code or visit.status != SWITCHING or self.is_disconnected:
            return
        try:
            await self._reply.send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError as error:
            if not is_of_client(error):
                raise
            await self.hear_end()

    async def hear_end(self) -> None:
        """The client is gone, as a message that nobody has read yet says: how?"""
        while not self.is_disconnected:
            await self.receive()

    def _note_end(self, message: Message) -> None:
        self.is_disconnected = True
        visit = self._reply.visit
        if visit.close_code or visit.status != SWITCHING:  # closed by us; or never opened
            return
        code = message.get("code", _NO_CODE)
        # uvicorn's word for a lost connection is a close frame's without a code, without a reason.
        visit.close_code = LOST if code == _NO_CODE and "reason" not in message else code
        if visit.close_code == LOST:
            visit.error = visit.error or "client_gone"
