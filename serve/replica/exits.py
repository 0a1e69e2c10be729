"""Exits on the event loop: `sys.exit()` in a task or a callback does not end the loop.

asyncio gives SystemExit and KeyboardInterrupt of a task to who awaits it, and lets them through to
who runs the loop as well. A replica's loop is run by a thread of Ray's, which would end without a
word and leave a process that answers nobody. So that thread runs its loop again. The rest is as it
is for other exceptions: a request gets what its tasks raised, a callback's goes to the loop's
exception handler.

A task factory that turns exits into something else was the other way: it costs each task, changes
what users' code sees, and knows nothing of callbacks.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import threading
import traceback
from collections.abc import Callable
from types import TracebackType


def outlive_exits() -> None:
    """Have this thread go on with its running event loop after an exit.

    Called again after user code had the chance to set a `threading.excepthook` of its own.
    """
    others = threading.excepthook
    if isinstance(others, _ExitHook):
        return
    threading.excepthook = _ExitHook(threading.current_thread(), asyncio.get_running_loop(), others)


class _ExitHook:
    """A `threading.excepthook`, which Python calls in the very thread that would end next.

    Args:
        thread: runs the loop.
        loop: goes on.
        others: the hook for other threads.
    """

    def __init__(
        self,
        thread: threading.Thread,
        loop: asyncio.AbstractEventLoop,
        others: Callable[[threading.ExceptHookArgs], object],
    ) -> None:
        self._thread = thread
        self._loop = loop
        self._others = others

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if args.thread is not self._thread or self._loop.is_closed():
            self._others(args)
            return
        error = args.exc_value or args.exc_type()
        del args
        _forget_handled()
        self._go_on(error)

    def _go_on(self, error: BaseException | None) -> None:
        while error is not None and not self._loop.is_closed():
            if not is_of_task(error.__traceback__):
                self._loop.call_exception_handler(
                    {"message": "Exception in callback; the event loop goes on", "exception": error}
                )
            error = self._run()

    def _run(self) -> BaseException | None:
        """Run the loop until it is stopped, which is None, or an exit comes through."""
        try:
            self._loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - what came this far would end the loop
            return error
        return None


def is_of_task(trace: TracebackType | None) -> bool:
    """Whether what was raised came out of a coroutine: who awaits its task gets it too."""
    flags = (frame.f_code.co_flags for frame, _ in traceback.walk_tb(trace))
    return any(flag & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE) for flag in flags)


def _forget_handled() -> None:
    """Have the thread handle no exception any more.

    It is in Python's `except` around `Thread.run`. All that is raised on the loop from now on would
    have that first exit as its `__context__`.
    """
    clear = ctypes.pythonapi.PyErr_SetExcInfo
    clear.argtypes, clear.restype = [ctypes.c_void_p] * 3, None
    clear(None, None, None)
