"""A small HTTP client on asyncio's streams: cheap, and able to leave at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

LIMIT_S = 60.0

_GONE = (asyncio.IncompleteReadError, ConnectionError)


class CutError(Exception):
    """The connection ended before the answer did. `status`: of its head; 0: none came."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"cut after status {status} and {len(body)} bytes")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection to the ingress that is kept, and made anew when it is gone.

    Args:
        port: of the ingress.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Send a request, read the whole answer. CutError: the connection ended before."""
        reader, writer = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        self._streams = None
        try:
            writer.write(encode_head(method, path, headers, len(body)) + body)
            answer = await asyncio.wait_for(_read(reader, method), LIMIT_S)
        except BaseException:
            writer.close()
            raise
        if answer.headers.get("connection", "") == "close":
            writer.close()
        else:
            self._streams = reader, writer
        return answer

    def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def connection(
    port: int, head: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of one's own on which something was sent; left without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head)
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


def encode_head(method: str, path: str, headers: Mapping[str, str], body_bytes: int = 0) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1", "Host: mixed"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body_bytes or method == "POST":
        lines.append(f"Content-Length: {body_bytes}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    status, body = 0, b""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        elif method != "HEAD":
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    except _GONE:
        raise CutError(status, body) from None
    return Answer(status, headers, body)
