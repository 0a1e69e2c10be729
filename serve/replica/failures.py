"""What a handler raised: whose it is, and how it is told."""

from __future__ import annotations

import asyncio
import logging
import os
import sysconfig
import traceback
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from serve import errors
from serve.replica.uvicorn_internals import ClientDisconnected
from serve.transport.failures import Origin, RemoteError, mark_raised, remote_error_of

_OWN_CODE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_MAX_TEXT = 1000
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
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
    told = _summarize(error).rstrip()
    return f"{told} ({place})" if place else told


def describe_failure(error: BaseException) -> str:
    """An exception's traceback from the user's own code on, as text; of its causes too.

    Of what a call raised, the steps of this process alone: the replica that raised it has a record
    of the others.
    """
    parts: list[str] = []
    seen: set[int] = set()
    each: BaseException | None = error
    link = ""
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        parts.insert(0, _describe_alone(each) + link)
        link = _CAUSED if each.__cause__ is not None else _MEANWHILE
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "".join(parts).rstrip()


def sign_failure(error: Exception, replica: str, call: str) -> None:
    """Have an exception that Ray carries to its caller tell who raised it first.

    Args:
        error: what the handler raised.
        replica: this replica's tag.
        call: endpoint and method that were called.
    """
    told = remote_error_of(error)
    if told is None:
        told = RemoteError(error, describe_failure(error), Origin(replica, os.getpid()), call)
    mark_raised(told)


def trace_failure(error: BaseException) -> str:
    """The traceback for a record; "" for what a call raised and nobody else touched.

    The replica that raised it has that in its own record, and there is one traceback of a failure:
    `describe_error` names the call, and the line that made it.
    """
    is_another = remote_error_of(error) is not None
    is_alone = error.__cause__ is None and (error.__suppress_context__ or not error.__context__)
    return "" if is_another and is_alone else describe_failure(error)


def _describe_alone(error: BaseException) -> str:
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        step = step.tb_next
    shown = step or error.__traceback__
    if remote_error_of(error) is None:
        return "".join(traceback.format_exception(type(error), error, shown, chain=False))
    steps = [
        line
        for line, (frame, _) in zip(
            traceback.format_tb(shown), traceback.walk_tb(shown), strict=False
        )
        if not frame.f_code.co_filename.startswith(_OWN_CODE)
    ]
    return "".join(["Traceback (most recent call last):\n", *steps, f"{_summarize(error)}\n"])


def _summarize(error: BaseException) -> str:
    """An exception in a line: of what a call raised, which one failed, and where."""
    remote = remote_error_of(error)
    if remote is None:
        return errors.describe_error(error)
    where = f" at {remote.origin.replica}" if remote.origin.replica else ""
    return f"call to {remote.call} failed{where}: {errors.describe_error(remote.cause)}"


def log_failure(logger: logging.Logger, message: str, error: BaseException) -> None:
    """Log an ERROR with the steps of the user's code, and of its libraries, not of the server.

    Of what a call raised, the call that failed: its replica tells the steps.
    """
    trace = trace_failure(error)
    text = message if trace else f"{message}: {describe_error(error)}"
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (text,), None)
    record.exc_text = trace or None
    logger.handle(record)


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
