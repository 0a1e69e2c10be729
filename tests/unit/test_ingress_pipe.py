"""The pipe on which HAProxy logs, with real pipes on both kinds of event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.ingress.pipe import LinePipe

WAIT_S = 20.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of its own."""

    def run_on(work: Coroutine[Any, Any, None]) -> None:
        loop = request.param()
        try:
            loop.run_until_complete(asyncio.wait_for(work, WAIT_S))
        finally:
            loop.close()

    return run_on


class Opened:
    """A pipe, its end to write to, and the lines that came."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.pipe = LinePipe(self.lines.append)
        self.end = -1

    def close_end(self) -> None:
        """No writer any more."""
        end, self.end = self.end, -1
        if end >= 0:
            os.close(end)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    made = Opened()
    made.end = await made.pipe.start()
    try:
        yield made
    finally:
        made.close_end()
        made.pipe.stop()
        await asyncio.sleep(0)  # the transport closes in the loop's next turn


def test_lines_are_handed_over_one_by_one_without_their_newlines(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            os.write(it.end, b"one\ntwo\n\nthree\n")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == [b"one", b"two", b"", b"three"]

    run(work())


def test_a_line_that_comes_in_parts_is_handed_over_whole(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            for part in (b"o", b"ne\ntw", b"o\n"):
                os.write(it.end, part)
                await asyncio.sleep(0.01)
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == [b"one", b"two"]

    run(work())


@pytest.mark.slow
def test_lines_of_a_real_process_arrive(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            code = f"import os\nfor n in range(2000): os.write({it.end}, b'line %d\\n' % n)"
            process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[it.end])
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert process.wait(WAIT_S) == 0
            assert it.lines == [b"line %d" % number for number in range(2000)]

    run(work())


def test_half_a_line_at_the_end_is_none(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            os.write(it.end, b"one\ntw")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == [b"one"]

    run(work())


@pytest.mark.slow
def test_draining_ends_although_somebody_still_holds_the_pipe(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            os.write(it.end, b"one\n")
            await it.pipe.drain(0.2)
            assert it.lines == [b"one"]
            os.write(it.end, b"two\n")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == [b"one", b"two"]

    run(work())


def test_a_pipe_that_was_never_opened_can_be_drained_and_closed(run: Run) -> None:
    async def work() -> None:
        pipe = LinePipe(lambda line: None)
        await pipe.drain(WAIT_S)
        pipe.stop()

    run(work())


def test_opened_again_it_takes_lines_from_the_new_end(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            os.write(it.end, b"old\n")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            it.end = await it.pipe.start()
            os.write(it.end, b"new\n")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == [b"old", b"new"]

    run(work())


def test_once_closed_its_writers_are_told_so(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            it.pipe.stop()
            for _ in range(100):
                await asyncio.sleep(0.01)
                try:
                    os.write(it.end, b"x\n")
                except BrokenPipeError:
                    return
            raise AssertionError("The pipe can still be written to.")

    run(work())


def test_rubbish_without_an_end_takes_no_memory_and_the_next_line_arrives(run: Run) -> None:
    async def work() -> None:
        async with opened() as it:
            rubbish = memoryview(b"x" * 300_000)
            os.set_blocking(it.end, False)
            while rubbish:
                with contextlib.suppress(BlockingIOError):
                    rubbish = rubbish[os.write(it.end, rubbish) :]
                await asyncio.sleep(0)
            os.write(it.end, b"\nnext\n")
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines[-1] == b"next"
            assert sum(map(len, it.lines)) < 300_000

    run(work())


def test_a_line_that_cannot_be_taken_is_told_and_the_next_ones_arrive(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[bytes] = []

    def take(line: bytes) -> None:
        if line == b"bad":
            raise ValueError("no such line")
        lines.append(line)

    async def work() -> None:
        pipe = LinePipe(take)
        end = await pipe.start()
        for data in (b"one\nbad\ntwo\n", b"three\n"):
            os.write(end, data)
            await asyncio.sleep(0.05)
        os.close(end)
        await pipe.drain(WAIT_S)
        assert lines == [b"one", b"two", b"three"]

    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    try:
        run(work())
    finally:
        logger.removeHandler(caplog.handler)
    record = caplog.records[0]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such line"


@pytest.mark.slow
@given(st.lists(st.binary(max_size=50), max_size=10))
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_however_lines_are_cut_they_arrive_as_they_were(run: Run, parts: list[bytes]) -> None:
    async def work() -> None:
        async with opened() as it:
            for part in parts:
                os.write(it.end, part)
                await asyncio.sleep(0)
            it.close_end()
            await it.pipe.drain(WAIT_S)
            assert it.lines == b"".join(parts).split(b"\n")[:-1]

    run(work())
