"""Exceptions on the wire: whatever a handler raised arrives as something that can be raised."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from serve.errors import RayServeException
from serve.transport.frames import Encoder, FrameKind, Piece, decode, dump_alone


class RemoteError(RayServeException):
    """The call was executed and raised. The layer above decides how to raise it here.

    Attributes:
        cause: the exception; where it cannot be carried, a `RayServeException` with its type and
            text.
        traceback_text: its traceback as the other process formatted it.
    """

    def __init__(self, cause: BaseException, traceback_text: str) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause
        self.traceback_text = traceback_text

    def __reduce__(self) -> tuple[type[RemoteError], tuple[BaseException, str]]:
        return RemoteError, (self.cause, self.traceback_text)


def failure_frame(encoder: Encoder, call_id: int, error: BaseException) -> list[Piece]:
    """Encodes an ERROR frame: the exception pickled by itself, its summary, its traceback text.

    By itself, because a client that lacks the exception's class shall still get the other two.
    """
    try:
        pickled = dump_alone(error)
        decode(pickled)  # many exceptions pickle, and then cannot be built again
    except Exception:  # noqa: BLE001 - foreign __reduce__ and __init__; the text takes its place
        pickled = b""
    summary = traceback.format_exception_only(error)[-1].strip()
    traceback_text = "".join(traceback.format_exception(error))
    return encoder.frame(FrameKind.ERROR, call_id, (pickled, summary, traceback_text))


def read_failure(data: Piece, buffers: Sequence[Piece] = ()) -> RemoteError:
    """Decodes an ERROR frame."""
    pickled, summary, traceback_text = decode(data, buffers)
    cause: BaseException | None = None
    if pickled:
        try:
            cause = decode(pickled)
        except Exception:  # noqa: BLE001 - its class is missing or different here
            cause = None
    return RemoteError(cause or RayServeException(summary), traceback_text)
