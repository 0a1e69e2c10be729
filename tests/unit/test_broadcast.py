"""Long poll: who asks gets what differs from what it has."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.controller.broadcast import NEVER, Broadcast, Update

A_WHILE_S = 30.0  # never reached: whoever waits is woken


async def start(work: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def applied(update: Update) -> dict[str, Any]:
    return {key: stamp for key, (stamp, _) in update.items()}


def values(update: Update) -> dict[str, object]:
    return {key: value for key, (_, value) in update.items()}


async def test_who_has_nothing_gets_the_present_values_at_once() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1, "b": 2, "c": 3})
    update = await broadcast.listen("me", {"a": NEVER, "b": NEVER}, A_WHILE_S)
    assert values(update) == {"a": 1, "b": 2}


async def test_who_is_up_to_date_waits_for_the_next_change() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1, "b": 2})
    update = await broadcast.listen("me", {"a": NEVER, "b": NEVER}, A_WHILE_S)
    waiting = await start(broadcast.listen("me", applied(update), A_WHILE_S))
    assert not waiting.done()
    broadcast.publish({"a": 1, "b": 20})
    assert values(await waiting) == {"b": 20}


async def test_an_equal_value_is_no_change() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": [1]})
    update = await broadcast.listen("me", {"a": NEVER}, A_WHILE_S)
    broadcast.publish({"a": [1]})
    assert await broadcast.listen("me", applied(update), 0) == {}


async def test_a_change_of_another_key_wakes_nobody() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("me", {"a": NEVER}, A_WHILE_S)
    waiting = await start(broadcast.listen("me", applied(update), A_WHILE_S))
    broadcast.publish({"a": 1, "b": 2})
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_of_several_changes_only_the_latest_arrives() -> None:
    broadcast = Broadcast()
    for number in range(5):
        broadcast.publish({"a": number})
    assert values(await broadcast.listen("me", {"a": NEVER}, A_WHILE_S)) == {"a": 4}


async def test_a_key_that_is_gone_has_the_value_none() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("me", {"a": NEVER}, A_WHILE_S)
    broadcast.publish({})
    assert values(await broadcast.listen("me", applied(update), A_WHILE_S)) == {"a": None}


async def test_a_key_that_never_was_is_told_once_as_none() -> None:
    broadcast = Broadcast()
    update = await broadcast.listen("me", {"x": NEVER}, A_WHILE_S)
    assert values(update) == {"x": None}
    assert await broadcast.listen("me", applied(update), 0.001) == {}


async def test_nothing_new_in_time_is_an_empty_answer() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("me", {"a": NEVER}, A_WHILE_S)
    assert await broadcast.listen("me", applied(update), 0.001) == {}


async def test_a_new_controllers_values_reach_who_knows_those_of_the_last_one() -> None:
    old, new = Broadcast(), Broadcast()
    old.publish({"a": 1})
    new.publish({"a": 1})
    known = applied(await old.listen("me", {"a": NEVER}, A_WHILE_S))
    assert values(await new.listen("me", known, A_WHILE_S)) == {"a": 1}


async def test_it_is_known_when_every_listener_has_applied_the_present_value() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("one", {"a": NEVER}, A_WHILE_S)
    await broadcast.listen("two", {"a": NEVER}, A_WHILE_S)
    waiting = await start(broadcast.until_applied(lambda: {"one", "two"}, "a", A_WHILE_S))
    polls = [await start(broadcast.listen("one", applied(update), A_WHILE_S))]
    assert not waiting.done()
    polls.append(await start(broadcast.listen("two", applied(update), A_WHILE_S)))
    assert await waiting is True
    for poll in polls:
        poll.cancel()


async def test_an_older_value_is_not_the_present_one() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("one", {"a": NEVER}, A_WHILE_S)
    await broadcast.listen("one", applied(update), 0)
    broadcast.publish({"a": 2})
    assert await broadcast.until_applied(lambda: {"one"}, "a", 0.001) is False


async def test_a_listener_that_is_gone_is_waited_for_no_more() -> None:
    broadcast, listeners = Broadcast(), {"one"}
    broadcast.publish({"a": 1})
    waiting = await start(broadcast.until_applied(lambda: listeners, "a", A_WHILE_S))
    assert not waiting.done()
    listeners.clear()
    broadcast.forget("one")
    assert await waiting is True


async def test_without_listeners_a_value_is_applied_everywhere() -> None:
    assert await Broadcast().until_applied(set, "a", A_WHILE_S) is True
