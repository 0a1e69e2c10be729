"""Exceptions on the wire: whatever a handler raised arrives as something that can be raised."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from serve.errors import RayServeException
from serve.transport.frames import Encoder, FrameKind, Piece, decode, dump_alone


class Origin(NamedTuple):
    """Where an exception was raised. `replica`: its tag; `pid`: its process."""

    replica: str = ""
    pid: int = 0


NOWHERE = Origin()


class RemoteError(RayServeException):
    """The call was executed and raised. The layer above decides how to raise it here.

    Attributes:
        cause: the exception; where it cannot be carried, a `RayServeException` with its type and
            text.
        traceback_text: its traceback as the process formatted it that raised it.
        origin: that process: of a call made within a call, the innermost one.
        call: endpoint and method that were called here; "" until it is raised again.
    """

    def __init__(
        self, cause: BaseException, traceback_text: str, origin: Origin = NOWHERE, call: str = ""
    ) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause
        self.traceback_text = traceback_text
        self.origin = origin
        self.call = call

    def __reduce__(self) -> tuple[type[RemoteError], tuple[BaseException, str, Origin, str]]:
        return RemoteError, (self.cause, self.traceback_text, self.origin, self.call)


_MARK = "tagtrail_remote_error"
_RAISED = "tagtrail_raised_as"
"""Of an exception that Ray carries: it arrives as the `cause` of one of Ray's own. Another mark, as
the one who raised it may raise it again, and it is not another's there."""


def mark_remote(raised: BaseException, error: RemoteError) -> None:
    """Have an exception that is raised here know which one it is of, and where that was raised."""
    with contextlib.suppress(Exception):  # a class of the user's may refuse it
        setattr(raised, _MARK, error)


def mark_raised(error: RemoteError) -> None:
    """Have the exception of a `handle.remote()` tell its caller where it was raised."""
    with contextlib.suppress(Exception):  # a class of the user's may refuse it
        setattr(error.cause, _RAISED, error)


def remote_error_of(error: BaseException) -> RemoteError | None:
    """The exception of a call that this one is; None if it was raised here."""
    return _read_mark(error, _MARK) or _read_mark(getattr(error, "cause", None), _RAISED)


def _read_mark(error: object, mark: str) -> RemoteError | None:
    marked = vars(error).get(mark) if hasattr(error, "__dict__") else None
    return marked if isinstance(marked, RemoteError) else None


def format_whole(error: BaseException) -> str:
    """An exception's whole traceback."""
    return "".join(traceback.format_exception(error))


def failure_frame(
    encoder: Encoder,
    call_id: int,
    error: BaseException,
    origin: Origin = NOWHERE,
    describe: Callable[[BaseException], str] = format_whole,
) -> list[Piece]:
    """Encodes an ERROR frame: the exception pickled by itself, its summary, traceback and origin.

    By itself, because a client that lacks the exception's class shall still get the others. The
    exception of a call within the call travels as it came: its type, its words, its origin.

    Args:
        encoder: of the connection.
        call_id: of the call that raised.
        error: what it raised.
        origin: this process.
        describe: gives an exception's traceback as text.
    """
    if (inner := remote_error_of(error)) is not None:
        error, traceback_text, origin = inner.cause, inner.traceback_text, inner.origin
    else:
        traceback_text = describe(error)
    try:
        pickled = dump_alone(error)
        decode(pickled)  # many exceptions pickle, and then cannot be built again
    except Exception:  # noqa: BLE001 - foreign __reduce__ and __init__; the text takes its place
        pickled = b""
    summary = traceback.format_exception_only(error)[-1].strip()
    words = (pickled, summary, traceback_text, tuple(origin))
    return encoder.frame(FrameKind.ERROR, call_id, words)


def read_failure(data: Piece, buffers: Sequence[Piece] = ()) -> RemoteError:
    """Decodes an ERROR frame."""
    pickled, summary, traceback_text, origin = decode(data, buffers)
    cause: BaseException | None = None
    if pickled:
        try:
            cause = decode(pickled)
        except Exception:  # noqa: BLE001 - its class is missing or different here
            cause = None
    return RemoteError(cause or RayServeException(summary), traceback_text, Origin(*origin))
