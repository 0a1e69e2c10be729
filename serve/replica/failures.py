"""What a handler raised: whose it is, and how it is told."""

from __future__ import annotations

import asyncio
import os
import sysconfig
import traceback
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from serve import errors
from serve.replica.protocol import ClientDisconnected

_OWN_CODE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_MAX_TEXT = 1000
_OF_CLIENT = (ClientDisconnect, WebSocketDisconnect, ClientDisconnected, asyncio.CancelledError)


def describe_error(error: BaseException) -> str:
    """An exception in one line, whatever its own text is: type, text, and the user's line.

    Returns:
        `ValueError: bad input (app.py:12 in predict)`. The place is the innermost line of the
        user's own code, though a library raised; left out where there is none. Of a group, its
        exceptions.
    """
    inner = getattr(error, "exceptions", None)
    if isinstance(inner, tuple) and inner:
        return "; ".join(map(describe_error, inner))[:_MAX_TEXT]
    place = _find_place(error.__traceback__)
    told = errors.describe_error(error).rstrip()
    return f"{told} ({place})" if place else told


def describe_failure(error: BaseException) -> str:
    """An exception's traceback from the user's own code on, as text."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        step = step.tb_next
    shown = step or error.__traceback__
    lines = traceback.format_exception(type(error), error, shown)
    return "".join(lines).rstrip()


def is_of_client(error: BaseException | None) -> bool:
    """Whether a client that left is behind an exception."""
    while error is not None:
        if isinstance(error, _OF_CLIENT):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_stopped(error: BaseException) -> bool:
    """Whether the running task was cancelled from outside; users' code may raise that too."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    cancelling = getattr(asyncio.current_task(), "cancelling", None)  # of Python 3.11
    return cancelling is None or cancelling() > 0


def _find_place(step: TracebackType | None) -> str:
    """The innermost line of a traceback that is neither a library's nor ours; "": none is."""
    found = None
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if not name.startswith(("<frozen ", _OWN_CODE, *_LIBRARIES)):
            found = step
        step = step.tb_next
    if found is None:
        return ""
    code = found.tb_frame.f_code
    return f"{os.path.basename(code.co_filename)}:{found.tb_lineno} in {code.co_name}"
