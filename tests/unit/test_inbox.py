"""The messages of one HTTP request, and the watch for a client that went away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serve.replica import inbox
from serve.replica.inbox import READ_AHEAD_BYTES, DisconnectWatch, Inbox


class Client:
    """The server's side of `receive`: gives the messages that were put."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.reads = 0

    def put(self, body: bytes, more: bool = True) -> None:
        self.queue.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.queue.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Any:
        message = await self.queue.get()
        self.reads += 1
        return message


@pytest.fixture(autouse=True)
def watch_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "TICK_S", 0.001)


def open_inbox(
    client: Client, task: asyncio.Future[None] | None = None, watch: DisconnectWatch | None = None
) -> Inbox:
    """An inbox of its own watch, unless told otherwise, that cancels `task`."""
    task = asyncio.ensure_future(forever()) if task is None else task
    return Inbox(client.receive, task, watch or DisconnectWatch())


async def settle() -> None:
    """So many ticks that the watch has started and read, in the order of the loop's own events."""
    for _ in range(20):
        await asyncio.sleep(inbox.TICK_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_quick_handler_reads_straight_from_the_server() -> None:
    client = Client()
    box = open_inbox(client)
    client.put(b"a")
    assert (await box.receive())["body"] == b"a"
    assert client.reads == 1


async def test_a_client_that_leaves_cancels_the_handler() -> None:
    client, task = Client(), asyncio.ensure_future(forever())
    box = open_inbox(client, task)
    client.leave()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
    assert box.is_disconnected


async def test_messages_that_the_watch_read_first_come_in_order() -> None:
    client = Client()
    box = open_inbox(client)
    for body in (b"a", b"b", b"c"):
        client.put(body)
    await until(lambda: client.reads == 3)
    assert [(await box.receive())["body"] for _ in range(3)] == [b"a", b"b", b"c"]
    box.close()


async def test_a_handler_that_waits_for_a_message_itself_is_not_competed_with() -> None:
    client, task = Client(), asyncio.ensure_future(forever())
    box = open_inbox(client, task)
    waiting = asyncio.ensure_future(box.receive())
    await settle()
    client.put(b"a")
    client.put(b"b", more=False)
    assert (await asyncio.wait_for(waiting, 60))["body"] == b"a"
    await settle()
    assert (await asyncio.wait_for(box.receive(), 60))["body"] == b"b"
    client.leave()
    await asyncio.wait([task], timeout=60)
    assert box.is_disconnected


async def test_a_handler_may_read_its_body_long_after_the_watch_read_it() -> None:
    client = Client()
    box = open_inbox(client)
    client.put(b"whole", more=False)
    await until(lambda: client.reads == 1)
    assert (await asyncio.wait_for(box.receive(), 60))["body"] == b"whole"
    box.close()


async def test_a_handler_that_still_waits_when_the_watch_ends_reads_on_by_itself() -> None:
    client = Client()
    box = open_inbox(client)
    await settle()
    waiting = asyncio.ensure_future(box.receive())
    await asyncio.sleep(0)
    box.close()
    client.leave()
    assert (await asyncio.wait_for(waiting, 60))["type"] == "http.disconnect"


async def test_a_handler_that_reads_after_the_watch_began_waits_for_the_next_message() -> None:
    client = Client()
    box = open_inbox(client)
    await settle()
    waiting = asyncio.ensure_future(box.receive())
    await settle()
    client.put(b"late")
    assert (await asyncio.wait_for(waiting, 60))["body"] == b"late"
    box.close()


async def test_a_disconnect_is_also_told_to_a_handler_that_reads_on() -> None:
    client = Client()
    box = open_inbox(client)
    client.leave()
    await until(lambda: box.is_disconnected)
    assert (await box.receive())["type"] == "http.disconnect"


async def test_the_watch_reads_no_more_ahead_than_it_may_and_goes_on_once_there_is_room() -> None:
    client = Client()
    box = open_inbox(client)
    for _ in range(4):
        client.put(b"x" * READ_AHEAD_BYTES)
    await until(lambda: client.reads == 2)  # one that fills it, one that makes it too much
    await settle()
    assert client.reads == 2
    for _ in range(2):
        await box.receive()
    await until(lambda: client.reads == 4)
    box.close()


async def test_a_client_that_leaves_late_still_cancels_after_its_body_was_read_ahead() -> None:
    client, task = Client(), asyncio.ensure_future(forever())
    box = open_inbox(client, task)
    client.put(b"a", more=False)
    await until(lambda: client.reads == 1)
    assert not task.done()
    client.leave()
    await asyncio.wait([task], timeout=60)
    assert box.is_disconnected


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_request_that_is_over_is_watched_no_more(is_early: bool) -> None:
    client, task = Client(), asyncio.ensure_future(forever())
    box = open_inbox(client, task)
    if not is_early:
        await settle()
    box.close()
    client.leave()
    await settle()
    assert not task.done()
    task.cancel()


async def test_one_watch_serves_requests_that_begin_at_different_times() -> None:
    watch, clients = DisconnectWatch(), [Client(), Client()]
    tasks = []
    for client in clients:
        tasks.append(asyncio.ensure_future(forever()))
        open_inbox(client, tasks[-1], watch)
        client.leave()
        await asyncio.wait(tasks, timeout=60)
    assert all(task.cancelled() for task in tasks)
