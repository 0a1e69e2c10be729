"""Who may speak on a call socket: both sides prove that they hold the instance's secret. Pure.

    server -> client   magic, version, digest of the replica tag, nonce
    client -> server   magic, version, nonce, HMAC("client", all of the above)
    server -> client   verdict, HMAC("server", all of the above)

Fixed lengths and no pickle: nothing a stranger sends is unpickled, on either side. The digest lets
a client notice that its replica is gone and that another one got its port. What follows is not
encrypted: the proof keeps strangers out, not somebody who can rewrite packets between the two.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct

from serve.errors import RayServeException

MAGIC = b"TAGTRAIL"
VERSION = 1
NONCE_BYTES = 32
HANDSHAKE_TIMEOUT_S = 2.0

_PREFIX = struct.Struct("<8sH")
_MAC_BYTES = hashlib.sha256().digest_size
PREFIX_BYTES = _PREFIX.size
HELLO_BYTES = PREFIX_BYTES + _MAC_BYTES + NONCE_BYTES
PROOF_BYTES = PREFIX_BYTES + NONCE_BYTES + _MAC_BYTES
VERDICT_BYTES = 1 + _MAC_BYTES
_ANY_REPLICA = bytes(_MAC_BYTES)


class AuthError(RayServeException):
    """The peer is not one of this instance: another program, another version, or another secret."""


class WrongReplicaError(AuthError):
    """A server of this instance, but not the replica that the address names."""


class Verdict(enum.IntEnum):
    """What the server says to a proof."""

    WELCOME = 0
    WRONG_SECRET = 1


def _digest(replica_tag: str) -> bytes:
    return hashlib.sha256(replica_tag.encode()).digest() if replica_tag else _ANY_REPLICA


def _mac(secret: bytes, role: bytes, hello: bytes, nonce: bytes) -> bytes:
    return hmac.digest(secret, b"tagtrail-call/" + role + b"\0" + hello + nonce, "sha256")


def check_prefix(prefix: bytes) -> None:
    """Raises `AuthError` unless a peer's first bytes are Tagtrail's, in this version."""
    magic, version = _PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise AuthError(f"the peer is not a Tagtrail call socket (it began with {prefix[:8]!r})")
    if version != VERSION:
        raise AuthError(
            f"the peer speaks call protocol {version}, this process {VERSION}: "
            "install the same Tagtrail version on both sides"
        )


def hello(nonce: bytes, replica_tag: str) -> bytes:
    """The server's first message; an empty tag: it answers for any replica."""
    return _PREFIX.pack(MAGIC, VERSION) + _digest(replica_tag) + nonce


def check_hello(message: bytes, replica_tag: str) -> None:
    """The client's look at it; an empty tag: any replica will do. Proves nothing yet."""
    check_prefix(message)
    theirs = message[PREFIX_BYTES : PREFIX_BYTES + _MAC_BYTES]
    if replica_tag and theirs not in (_ANY_REPLICA, _digest(replica_tag)):
        raise WrongReplicaError(
            "another replica listens there: the address is out of date, its replica is gone"
        )


def proof(secret: bytes, hello_message: bytes, nonce: bytes) -> bytes:
    """The client's answer to the server's hello."""
    mac = _mac(secret, b"client", hello_message, nonce)
    return _PREFIX.pack(MAGIC, VERSION) + nonce + mac


def check_proof(secret: bytes, hello_message: bytes, message: bytes) -> bytes:
    """The server's verdict on it.

    Returns:
        The verdict to send. A refusal is one too: its first byte is not `Verdict.WELCOME`.
    """
    check_prefix(message)
    nonce = message[PREFIX_BYTES : PREFIX_BYTES + NONCE_BYTES]
    expected = _mac(secret, b"client", hello_message, nonce)
    if not hmac.compare_digest(message[PREFIX_BYTES + NONCE_BYTES :], expected):
        return bytes([Verdict.WRONG_SECRET]) + bytes(_MAC_BYTES)
    return bytes([Verdict.WELCOME]) + _mac(secret, b"server", hello_message, nonce)


def check_verdict(secret: bytes, hello_message: bytes, nonce: bytes, message: bytes) -> None:
    """The client's look at the verdict: was it let in, and does the server hold the secret too?"""
    if message[0] == Verdict.WRONG_SECRET:
        raise AuthError("the peer refused this process's secret: it belongs to another instance")
    expected = _mac(secret, b"server", hello_message, nonce)
    if message[0] != Verdict.WELCOME or not hmac.compare_digest(message[1:], expected):
        raise AuthError("the peer did not prove that it holds this instance's secret")
