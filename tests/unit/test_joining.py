"""Answers leave the replica in one piece."""

from __future__ import annotations

import asyncio

from serve.replica.joining import JOIN_BYTES, JoiningTransport


class Recorder:
    """A transport's end that keeps each write apart."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed_after = -1

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed_after >= 0

    def close(self) -> None:
        self.closed_after = len(self.writes)

    def get_extra_info(self, name: str) -> str:
        return f"inner {name}"


def joining(recorder: Recorder) -> JoiningTransport:
    return JoiningTransport(
        recorder,  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        lambda size: None,
    )


async def test_before_anything_is_sent_what_must_be_written_is() -> None:
    recorder = Recorder()
    sent_before: list[tuple[int, int]] = []
    transport = JoiningTransport(
        recorder,  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        lambda size: sent_before.append((size, len(recorder.writes))),
    )
    transport.write(b"small")
    await asyncio.sleep(0)
    transport.write(b"x" * JOIN_BYTES)
    assert (sent_before, len(recorder.writes)) == ([(5, 0), (JOIN_BYTES, 1)], 2)


async def test_writes_of_one_iteration_are_one_write() -> None:
    recorder = Recorder()
    transport = joining(recorder)
    transport.write(b"head ")
    transport.write(b"body")
    assert recorder.writes == []
    await asyncio.sleep(0)
    assert recorder.writes == [b"head body"]


async def test_an_empty_write_is_none() -> None:
    recorder = Recorder()
    joining(recorder).write(b"")
    await asyncio.sleep(0)
    assert recorder.writes == []


async def test_a_large_piece_goes_at_once_after_what_came_before() -> None:
    recorder = Recorder()
    transport = joining(recorder)
    large = b"x" * JOIN_BYTES
    transport.write(b"head")
    transport.write(large)
    assert recorder.writes == [b"head", large]


async def test_closing_sends_what_was_written() -> None:
    recorder = Recorder()
    transport = joining(recorder)
    transport.write(b"last words")
    transport.close()
    assert transport.is_closing()
    assert recorder.writes == [], "who answered may still raise, which is the record's"
    await asyncio.sleep(0)
    assert recorder.writes == [b"last words"]
    assert recorder.closed_after == 1


async def test_all_else_is_the_inner_transports() -> None:
    assert joining(Recorder()).get_extra_info("peername") == "inner peername"


async def test_who_writes_without_a_pause_is_not_held_back_beyond_the_limit() -> None:
    recorder = Recorder()
    transport = joining(recorder)
    piece = b"x" * (JOIN_BYTES // 2)
    for _ in range(5):
        transport.write(piece)
    assert recorder.writes == [2 * piece, 2 * piece]
    await asyncio.sleep(0)
    assert recorder.writes == [2 * piece, 2 * piece, piece]
