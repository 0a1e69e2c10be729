"""What each connection of a replica is at, in memory that it shares with its sidecar. Pure."""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import NamedTuple

SLOTS = 2048
"""Connections that can be covered; HAProxy keeps far fewer."""

SLOT_BYTES = 4096
"""A page: one that was never used takes no memory."""

HEAD = struct.Struct("<BxHxxxxdQQ")
"""A slot begins with its stage, the bytes kept of the request, when that began (monotonic seconds),
and how many bytes were sent over the connection before its answer, and with it; the request's first
bytes follow."""

KEPT_BYTES = SLOT_BYTES - HEAD.size
"""So much of a request is kept. One whose head is longer is not repeated."""

ATTEMPTS_HEADER = b"x-serve-attempts"
"""Of a request that is repeated: how many replicas have died of it."""

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""Methods whose requests may be sent again (RFC 9110, 9.2.2)."""

_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z]+) \S+ HTTP/1\.1\r\n")
_ID = re.compile(rb"\r\nx-request-id: ([^\r\n]+)", re.IGNORECASE)
_ATTEMPTS = re.compile(rb"\r\n" + ATTEMPTS_HEADER + rb": ([0-9]+)")
_NOT_ALONE = re.compile(
    rb"\r\n(?:content-length: *0*[1-9]|transfer-encoding:|upgrade:)", re.IGNORECASE
)
"""Of a request that is more than its head."""


class Stage(IntEnum):
    """What a connection is at. What has really left, only the kernel knows (`read_slot`)."""

    IDLE = 0
    RUNNING = 1
    """A request's head was read; nothing of its answer has left."""
    ANSWERING = 2
    """Part of the answer has left."""
    WRITTEN = 3
    """The replica has written the whole answer; of a slot only."""


class Lost(NamedTuple):
    """What a connection was at when its replica died.

    Attributes:
        stage: as the replica noted it; RUNNING, too, of a request that came and never began.
        kept: the request's first bytes; of one that never began, all that came.
        began_s: when it began, monotonic seconds; 0.0: it did not.
    """

    stage: Stage
    kept: bytes = b""
    began_s: float = 0.0

    @property
    def is_begun(self) -> bool:
        """Whether user code may have run."""
        return self.began_s > 0

    @property
    def is_repeatable(self) -> bool:
        """Whether another replica may have it: it never began, or it is safe and all of it here."""
        line = _REQUEST_LINE.match(self.kept)
        if line is None or not self.is_begun:
            return line is not None
        is_whole = self.kept.endswith(_END) and not _NOT_ALONE.search(self.kept)
        return line[1] in REPEATABLE and is_whole

    @property
    def request_id(self) -> str:
        """The request's id; "" if it is not among what was kept."""
        found = _ID.search(self.kept.partition(_END)[0])
        return found[1].decode("latin-1") if found else ""

    @property
    def runs(self) -> int:
        """How many replicas have died of the request, this one included."""
        attempts = _ATTEMPTS.search(self.kept.partition(_END)[0])  # the first is the latest
        return (int(attempts[1]) if attempts else 0) + self.is_begun

    def repeated(self) -> bytes:
        """What another replica is sent, which closes the connection after its answer."""
        line, _, rest = self.kept.partition(b"\r\n")
        own = b"%s: %d\r\nconnection: close\r\n" % (ATTEMPTS_HEADER, self.runs)
        return line + b"\r\n" + own + rest


def read_slot(slot: bytes, unread: bytes, sent: int) -> Lost:
    """What a connection was at.

    Args:
        slot: its part of the memory.
        unread: what came over it and was not read.
        sent: bytes that the kernel was given to send over it. A replica that dies may have written
            an answer that never left its process.
    """
    stage, size, began_s, before, whole = HEAD.unpack_from(slot)
    if stage == Stage.IDLE or (stage == Stage.WRITTEN and sent == whole):
        return Lost(Stage.RUNNING, unread) if _REQUEST_LINE.match(unread) else Lost(Stage.IDLE)
    kept = slot[HEAD.size : HEAD.size + size]
    return Lost(Stage.RUNNING if sent == before else Stage.ANSWERING, kept, began_s)
