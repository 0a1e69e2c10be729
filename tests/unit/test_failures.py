"""What is said of an exception in one line."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable

import pytest

from serve.replica.failures import describe_error, is_stopped

HERE = "test_failures.py"


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - what is looked at
        return error
    raise AssertionError("nothing was raised")


def line_of(function: Callable[[], object]) -> int:
    """The line in which a function of one statement raises."""
    return inspect.getsourcelines(function)[1] + 1


def fail() -> None:
    raise ValueError("bad input")


def misread() -> None:
    json.loads("{")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_it_is_type_text_and_place() -> None:
    told = describe_error(caught(fail))
    assert told == f"ValueError: bad input ({HERE}:{line_of(fail)} in fail)"


def test_the_place_is_the_users_line_though_a_library_raised() -> None:
    assert describe_error(caught(misread)).endswith(f"({HERE}:{line_of(misread)} in misread)")


def test_an_exception_without_text_is_told_by_its_type() -> None:
    told = describe_error(caught(interrupt))
    assert told == f"KeyboardInterrupt: ({HERE}:{line_of(interrupt)} in interrupt)"


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert describe_error(ValueError("made")) == "ValueError: made"


def test_a_text_that_raises_and_one_without_end_are_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert describe_error(Mute()) == "Mute: (its text can't be told)"
    assert len(describe_error(ValueError("x" * 5000))) == 1000


def test_of_a_group_its_exceptions_are_told() -> None:
    class Group(Exception):  # as ExceptionGroup, which Python 3.10 has not
        def __init__(self, *exceptions: BaseException) -> None:
            super().__init__("unhandled errors in a TaskGroup")
            self.exceptions = exceptions

    told = describe_error(Group(Group(caught(fail)), KeyError("other")))
    assert told == f"ValueError: bad input ({HERE}:{line_of(fail)} in fail); KeyError: 'other'"


@pytest.mark.skipif(not hasattr(asyncio.Task, "cancelling"), reason="needs Python 3.11")
async def test_a_cancellation_that_the_user_raises_is_none() -> None:
    asked: list[bool] = []

    async def run(work: Callable[[], object]) -> None:
        try:
            work()
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            asked.append(is_stopped(error))

    def cancel_oneself() -> None:
        raise asyncio.CancelledError

    await asyncio.create_task(run(cancel_oneself))
    stopped = asyncio.create_task(run(lambda: None))
    await asyncio.sleep(0)
    stopped.cancel()
    await stopped
    assert asked == [False, True]
