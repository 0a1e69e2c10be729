"""Carries auth.py's three messages over a fresh socket, before any transport exists."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Coroutine
from typing import Any

from serve.transport import auth


async def admit_client(sock: socket.socket, secret: bytes, replica_tag: str) -> None:
    """Server's side.

    Args:
        sock: accepted, non-blocking.
        secret: the instance's.
        replica_tag: whose socket this is; "": anybody's.

    Raises:
        AuthError: the client is a stranger, or did not finish within `HANDSHAKE_TIMEOUT_S`.
        ConnectionError: it went away.
    """
    await _bounded(_admit(sock, secret, replica_tag))


async def greet_server(sock: socket.socket, secret: bytes, replica_tag: str) -> None:
    """Client's side; raises as `admit_client` does, and `WrongReplicaError`."""
    await _bounded(_greet(sock, secret, replica_tag))


async def _bounded(exchange: Coroutine[Any, Any, None]) -> None:
    try:
        await asyncio.wait_for(exchange, auth.HANDSHAKE_TIMEOUT_S)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise auth.AuthError(
            f"the peer did not finish the handshake within {auth.HANDSHAKE_TIMEOUT_S:g} s"
        ) from error


async def _admit(sock: socket.socket, secret: bytes, replica_tag: str) -> None:
    loop = asyncio.get_running_loop()
    hello = auth.hello(secrets.token_bytes(auth.NONCE_BYTES), replica_tag)
    await loop.sock_sendall(sock, hello)
    prefix = await _receive(sock, auth.PREFIX_BYTES)
    auth.check_prefix(prefix)
    proof = prefix + await _receive(sock, auth.PROOF_BYTES - auth.PREFIX_BYTES)
    verdict = auth.check_proof(secret, hello, proof)
    await loop.sock_sendall(sock, verdict)
    if verdict[0] != auth.Verdict.WELCOME:
        raise auth.AuthError("the peer holds another secret: it belongs to another instance")


async def _greet(sock: socket.socket, secret: bytes, replica_tag: str) -> None:
    loop = asyncio.get_running_loop()
    prefix = await _receive(sock, auth.PREFIX_BYTES)
    auth.check_prefix(prefix)
    hello = prefix + await _receive(sock, auth.HELLO_BYTES - auth.PREFIX_BYTES)
    auth.check_hello(hello, replica_tag)
    nonce = secrets.token_bytes(auth.NONCE_BYTES)
    await loop.sock_sendall(sock, auth.proof(secret, hello, nonce))
    auth.check_verdict(secret, hello, nonce, await _receive(sock, auth.VERDICT_BYTES))


async def _receive(sock: socket.socket, n_bytes: int) -> bytes:
    # Never one byte more than asked: what follows the handshake belongs to the transport.
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < n_bytes:
        data = await loop.sock_recv(sock, n_bytes - len(received))
        if not data:
            raise ConnectionResetError(
                f"the peer closed the connection in the handshake, after {len(received)} bytes"
            )
        received += data
    return received
