"""A light HTTP load generator: keep-alive connections, one request in flight on each.

httptools parses the answers; a client library would cost more than the server it measures.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools

from benchmarks.harness import Figure, figure

WARM_UP_S = 0.3
LAST_ANSWER_S = 10.0


class Requester(asyncio.Protocol):
    """One connection that sends the next request when an answer is complete."""

    def __init__(self, request: bytes, latencies_s: list[float]) -> None:
        self._request = request
        self._latencies_s = latencies_s
        self._sent = 0.0
        self.is_over = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self.closed.set_exception(
                RuntimeError(f"Expected status 200, got {self._parser.get_status_code()}")
            )
            self._transport.close()
            return
        self._latencies_s.append(time.perf_counter() - self._sent)
        if self.is_over:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            if self.is_over:
                self.closed.set_result(None)
            else:
                self.closed.set_exception(RuntimeError(f"Connection lost under load: {exc}"))

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        self._transport.write(self._request)


async def load(name: str, port: int, path: str, connections: int, seconds: float) -> Figure:
    """Ask for `path` on 127.0.0.1:`port` over so many connections for so long."""
    loop = asyncio.get_running_loop()
    latencies_s: list[float] = []
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    requesters = []
    for _ in range(connections):
        _, requester = await loop.create_connection(
            lambda: Requester(request, latencies_s), "127.0.0.1", port
        )
        requesters.append(requester)
    await asyncio.sleep(WARM_UP_S)
    latencies_s.clear()
    started = time.perf_counter()
    await asyncio.wait(
        [r.closed for r in requesters], timeout=seconds, return_when="FIRST_EXCEPTION"
    )
    wall_s = time.perf_counter() - started
    counted = list(latencies_s)
    for requester in requesters:
        requester.is_over = True
    answers = asyncio.gather(*(requester.closed for requester in requesters))
    await asyncio.wait_for(answers, LAST_ANSWER_S)
    return figure(name, connections, counted, wall_s)
