"""The wire format of the call path: one header, then pickle bytes, then buffers. Pure.

    header   kind u8 | buffers u16 | call id u64 | pickle length u64      (little endian, 19 bytes)
    lengths  one u64 for each buffer
    pickle   protocol 5
    buffers  the arrays that the pickle names but does not hold, as they lie in memory

What is large is not copied when it is encoded (`bytes` included); a buffer not when decoded either.
"""

from __future__ import annotations

import enum
import pickle
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

from serve.errors import RayServeException

Piece: TypeAlias = "bytes | bytearray | memoryview"

HEADER = struct.Struct("<BHQQ")
HEADER_SIZE = HEADER.size
MAX_FRAME_BYTES = 16 * 2**30
MAX_BUFFERS = 65_535
# Below this a copy is cheaper than a buffer of its own, which costs a second receive.
OUT_OF_BAND_BYTES = 64 * 1024
# The C pickler ends a piece of opcodes at 64 KiB: a much larger one is some `bytes` of the user's.
_OPCODES_BYTES = 256 * 1024


class FrameKind(enum.IntEnum):
    """What a frame says.

    CALL, RESULT and ERROR carry a pickle; the others are a header alone.
    """

    CALL = 1
    RESULT = 2
    ERROR = 3
    CANCEL = 4  # client: the answer is not wanted any more
    REJECT = 5  # server: draining, the call was not executed
    GOAWAY = 6  # server: draining, send no more calls (call id 0)
    CANCELLED = 7  # server: a call that was cancelled, by whom ever, is over


FIRST_KIND = int(min(FrameKind))
LAST_KIND = int(max(FrameKind))


class FrameError(RayServeException):
    """The peer sent bytes that are no frame, or a frame is over the limits."""


class MessageError(RayServeException):
    """A message, result or exception could not be pickled, or not be unpickled where it arrived."""


class _Chunks(list[Any]):
    """A file for the pickler which keeps each write as it is: a large `bytes` arrives uncopied."""

    __slots__ = ()
    write = list.append


class _Session:
    """One reusable C pickler: making one costs more than pickling a small message."""

    __slots__ = ("buffers", "chunks", "clear_memo", "dump")

    def __init__(self) -> None:
        self.chunks = _Chunks()
        self.buffers: list[memoryview] = []
        pickler = pickle.Pickler(self.chunks, 5, buffer_callback=self._keep)
        self.dump = pickler.dump
        self.clear_memo = pickler.clear_memo

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        return keep_in_band(buffer, self.buffers)


def keep_in_band(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    """Decides where a buffer goes: true: into the pickle; false: it is appended to `buffers`."""
    try:
        raw = buffer.raw()
    except BufferError:  # not contiguous: pickle words the error
        return True
    if raw.nbytes < OUT_OF_BAND_BYTES or len(buffers) >= MAX_BUFFERS:
        return True
    buffers.append(raw)
    return False


class Encoder:
    """Turns messages into the pieces of a frame. One for each connection and its thread."""

    __slots__ = ("_idle",)

    def __init__(self) -> None:
        self._idle: _Session | None = None

    def frame(self, kind: int, call_id: int, message: object) -> list[Piece]:
        """Encodes one frame.

        Args:
            kind: a `FrameKind`.
            call_id: which call it belongs to.
            message: any object that pickle or cloudpickle takes.

        Returns:
            The pieces to write, in this order. Large ones are the message's own memory, so it must
            not change before they are sent.

        Raises:
            MessageError: the message cannot be pickled.
            FrameError: it is larger than `MAX_FRAME_BYTES`.
        """
        session = self._idle or _Session()
        self._idle = None  # pickling runs foreign code, which may come back here
        chunks = session.chunks
        try:
            session.dump(message)
        except Exception:  # noqa: BLE001 - whatever a foreign __reduce__ raises, cloudpickle gets its try
            return _pack(kind, call_id, *_by_value(message))
        if len(chunks) == 1 and not session.buffers:
            data: bytes = chunks[0]
            if b"__main__" in data:
                return _pack(kind, call_id, *_by_value(message))
            session.clear_memo()
            chunks.clear()
            self._idle = session
            return [HEADER.pack(kind, 0, call_id, len(data)) + data]
        # Not reused: a memo that was large once is slow to clear ever after.
        if any(len(chunk) < _OPCODES_BYTES and b"__main__" in chunk for chunk in chunks):
            return _pack(kind, call_id, *_by_value(message))
        return _pack(kind, call_id, chunks, session.buffers)


def _by_value(message: object, *, keep_all: bool = False) -> tuple[list[bytes], list[memoryview]]:
    # Lambdas, local classes and all that lives in __main__, which is another module over there.
    from ray import cloudpickle  # heavy, rarely needed, and already loaded inside a Ray worker

    buffers: list[memoryview] = []
    try:
        data = cloudpickle.dumps(
            message,
            protocol=5,
            buffer_callback=lambda buffer: keep_all or keep_in_band(buffer, buffers),
        )
    except Exception as error:
        raise MessageError(
            f"An object of type {_type_name(message)} cannot be pickled: "
            f"{type(error).__name__}: {error}"
        ) from error
    return [data], buffers


def dump_alone(value: object) -> bytes:
    """Pickles a value into one piece, by value where it must be. Raises `MessageError`."""
    try:
        data = pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001 - as in `Encoder.frame`
        data = b"__main__"
    return _by_value(value, keep_all=True)[0][0] if b"__main__" in data else data


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _pack(
    kind: int, call_id: int, chunks: Sequence[Piece], buffers: Sequence[memoryview]
) -> list[Piece]:
    size = sum(map(len, chunks))
    lengths = [buffer.nbytes for buffer in buffers]
    check_header(kind, len(buffers), size + sum(lengths))
    head = HEADER.pack(kind, len(buffers), call_id, size)
    if buffers:
        head += struct.pack(f"<{len(lengths)}Q", *lengths)
    if len(chunks) == 1 and size < OUT_OF_BAND_BYTES:
        return [head + chunks[0], *buffers]
    return [head, *chunks, *buffers]


def control_frame(kind: FrameKind, call_id: int = 0) -> bytes:
    """Encodes a frame that is a header alone: CANCEL, REJECT, GOAWAY."""
    return HEADER.pack(kind, 0, call_id, 0)


def check_header(kind: int, n_buffers: int, frame_bytes: int) -> None:
    """Raises `FrameError` for what no sane peer announces, before anything is allocated for it.

    Args:
        kind: the header's kind.
        n_buffers: how many buffers follow the pickle.
        frame_bytes: the pickle's length, with those of the buffers where they are known.
    """
    if not FIRST_KIND <= kind <= LAST_KIND:
        raise FrameError(
            f"Unknown frame kind {kind}. Known: {FIRST_KIND} to {LAST_KIND}. "
            "Does another program, or another Tagtrail version, write to this socket?"
        )
    if n_buffers > MAX_BUFFERS or frame_bytes > MAX_FRAME_BYTES:
        raise FrameError(
            f"A frame of {frame_bytes} bytes and {n_buffers} buffers is over the limits "
            f"({MAX_FRAME_BYTES} bytes, {MAX_BUFFERS} buffers)."
        )


def decode(data: Piece, buffers: Sequence[Piece] = ()) -> Any:
    """Unpickles an authenticated peer's message; arrays become views on `buffers`."""
    if buffers:
        return pickle.loads(data, buffers=buffers)
    return pickle.loads(data)
