"""Strangers on the call socket: refused on both sides, told why, logged once, never unpickled."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve.records import ReplicaAddress
from serve.transport import auth
from serve.transport.auth import AuthError
from serve.transport.client import connect
from serve.transport.frames import HEADER, FrameKind
from serve.transport.server import CallServer

SECRET = b"s" * 32
TAG = "model#abcdef"


class Trap:
    """A pickle that leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def trap_frame(kind: FrameKind, path: Path) -> bytes:
    data = pickle.dumps(Trap(path))
    return HEADER.pack(kind, 0, 1, len(data)) + data


async def echo(message: object) -> object:
    return message


def address(port: int) -> ReplicaAddress:
    return ReplicaAddress(TAG, "actor", "node", "127.0.0.1", 0, port)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


async def test_a_client_with_another_secret_is_told_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("test.strangers")
    server = CallServer(echo, SECRET, logger=logger)
    bound = await server.start("127.0.0.1")
    with caplog.at_level(logging.WARNING, "test.strangers"):
        for _ in range(3):
            with pytest.raises(AuthError, match=rf"{TAG}.*:{bound.port}.*another instance"):
                await connect(address(bound.port), b"other", local_node_id="x")
        while not caplog.records:
            await asyncio.sleep(0.01)
    assert len(caplog.records) == 1
    assert "127.0.0.1" in caplog.text
    await server.close()


@pytest.mark.parametrize("with_proof", [False, True])
async def test_a_server_unpickles_nothing_of_a_stranger(tmp_path: Path, with_proof: bool) -> None:
    server = CallServer(echo, SECRET)
    bound = await server.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
    hello = await reader.readexactly(auth.HELLO_BYTES)
    if with_proof:
        writer.write(auth.proof(b"guess", hello, b"n" * 32))
    writer.write(trap_frame(FrameKind.CALL, tmp_path / "sprung"))
    answer = b""
    try:
        answer = await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:  # it closed with our bytes unread
        with_proof = False
    assert not with_proof or answer[0] == auth.Verdict.WRONG_SECRET
    writer.close()
    await server.close()
    assert not (tmp_path / "sprung").exists()


async def impostor(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_a_client_unpickles_nothing_of_an_impostor(tmp_path: Path) -> None:
    frame = trap_frame(FrameKind.RESULT, tmp_path / "sprung")

    async def without_handshake(reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(frame)
        await writer.drain()

    async def without_secret(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(auth.hello(b"n" * 32, TAG))
        await reader.readexactly(auth.PROOF_BYTES)
        writer.write(bytes([auth.Verdict.WELCOME]) + b"?" * 32 + frame)
        await writer.drain()

    for talk, why in ((without_handshake, "not a Tagtrail"), (without_secret, "did not prove")):
        server, port = await impostor(talk)
        with pytest.raises(AuthError, match=why):
            await connect(address(port), SECRET, local_node_id="x")
        server.close()
        await server.wait_closed()
    assert not (tmp_path / "sprung").exists()


async def test_silence_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HANDSHAKE_TIMEOUT_S", 0.05)
    release = asyncio.Event()

    async def silent(reader: Any, writer: asyncio.StreamWriter) -> None:
        await release.wait()

    server, port = await impostor(silent)
    with pytest.raises(AuthError, match="did not finish the handshake"):
        await connect(address(port), SECRET, local_node_id="x")
    release.set()
    server.close()
    await server.wait_closed()

    calls = CallServer(echo, SECRET)
    bound = await calls.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
    assert len(await asyncio.wait_for(reader.read(), 60)) == auth.HELLO_BYTES
    writer.close()
    await calls.close()


async def test_close_ends_handshakes_that_are_under_way() -> None:
    server = CallServer(echo, SECRET)
    bound = await server.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
    await reader.readexactly(auth.HELLO_BYTES)
    await server.close()
    assert await reader.read() == b""
    writer.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
