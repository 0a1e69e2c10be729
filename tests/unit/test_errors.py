"""How an exception is told in one line."""

from __future__ import annotations

import anyio
import pytest

from serve.errors import describe_error


def test_an_exception_is_its_type_and_its_text() -> None:
    assert describe_error(ValueError("no")) == "ValueError: no"


def test_an_exception_whose_text_raises_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Mute()) == "Mute: (its text can't be told)"


async def test_a_group_tells_what_it_holds() -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(BaseException) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(fail, "one")
            group.start_soon(fail, "two")
    assert describe_error(caught.value).endswith(": ValueError: one; ValueError: two")


def test_what_is_told_has_a_limit() -> None:
    assert len(describe_error(ValueError("x" * 5000))) == 1000
