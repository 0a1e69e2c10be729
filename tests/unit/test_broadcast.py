"""Long poll: who asks gets what differs from what it has."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.controller.broadcast import GIVE_UP_AFTER, NEVER, Broadcast, Refusal, Update

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


# Values that a listener can't apply.


async def test_a_value_that_was_refused_is_not_sent_again_and_a_newer_one_is() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("one", {"a": NEVER}, 0)
    refused = {"a": Refusal(update["a"][0], "disk full", 1)}
    waiting = await start(broadcast.listen("one", {"a": NEVER}, A_WHILE_S, refused))
    assert not waiting.done()
    assert broadcast.refusals("one") == {"a": "disk full"}
    broadcast.publish({"a": 2})
    assert values(await waiting) == {"a": 2}


async def test_what_was_refused_is_forgotten_once_it_is_applied() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("one", {"a": NEVER}, 0)
    refused = {"a": Refusal(update["a"][0], "disk full", 1)}
    await broadcast.listen("one", {"a": NEVER}, 0, refused)
    await broadcast.listen("one", applied(update), 0)
    assert broadcast.refusals("one") == {}


async def test_who_waits_hears_of_a_listener_that_gives_up_not_of_one_that_tries_again() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    stamp = (await broadcast.listen("one", {"a": NEVER}, 0))["a"][0]
    waiting = await start(broadcast.until_applied(lambda: {"one"}, "a", A_WHILE_S))
    for attempts in range(1, GIVE_UP_AFTER):
        await broadcast.listen("one", {"a": NEVER}, 0, {"a": Refusal(stamp, "no", attempts)})
        await asyncio.sleep(0)
        assert not waiting.done()
    await broadcast.listen("one", {"a": NEVER}, 0, {"a": Refusal(stamp, "no", GIVE_UP_AFTER)})
    assert await waiting is False


async def test_a_refusal_of_an_older_value_is_no_answer() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    stamp = (await broadcast.listen("one", {"a": NEVER}, 0))["a"][0]
    broadcast.publish({"a": 2})
    waiting = await start(broadcast.until_applied(lambda: {"one"}, "a", A_WHILE_S))
    await broadcast.listen("one", {"a": NEVER}, 0, {"a": Refusal(stamp, "no", GIVE_UP_AFTER)})
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


# What stays, and who is woken.


class Key(str):
    """Tells how often it was looked up: by the listener that wants it, each time it is woken."""

    looks = 0

    def __hash__(self) -> int:
        self.looks += 1
        return super().__hash__()


async def test_listeners_that_come_and_go_leave_nothing() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    update = await broadcast.listen("", {"a": NEVER}, 0)
    before = broadcast.size
    for _ in range(1000):
        await broadcast.listen("", {"a": NEVER, "unknown": NEVER}, 0)
    polls = [await start(broadcast.listen("", applied(update), A_WHILE_S)) for _ in range(10)]
    assert broadcast.size == before + len(polls)
    for poll in polls:
        poll.cancel()
    await asyncio.wait(polls)
    assert broadcast.size == before


async def test_keys_that_went_leave_nothing() -> None:
    broadcast = Broadcast()
    broadcast.publish({"a": 1})
    before = broadcast.size
    for number in range(1000):
        broadcast.publish({"a": 1, f"b{number}": 2})
    broadcast.publish({"a": 1})
    assert broadcast.size == before


async def test_a_key_that_went_and_came_again_has_ever_newer_stamps() -> None:
    broadcast = Broadcast()
    stamps = []
    for number in range(3):
        broadcast.publish({"a": number, "other": 1})
        stamps.append((await broadcast.listen("", {"a": NEVER}, 0))["a"][0])
        broadcast.publish({"other": 1})
        stamps.append((await broadcast.listen("", {"a": NEVER}, 0))["a"][0])
    assert stamps == sorted(set(stamps))


async def test_a_change_wakes_those_who_want_its_key_and_a_listener_wakes_nobody() -> None:
    broadcast = Broadcast()
    names = [f"key{number}" for number in range(100)]
    broadcast.publish(dict.fromkeys(names, 1))
    keys, polls = [Key(name) for name in names], []
    for key in keys:
        has = applied(await broadcast.listen("", {key: NEVER}, 0))
        polls.append(await start(broadcast.listen("", has, A_WHILE_S)))
    for key in keys:
        key.looks = 0
    broadcast.publish({**dict.fromkeys(names, 1), "key7": 2})
    assert values(await polls.pop(7)) == {"key7": 2}
    await broadcast.listen("ingress", {"key1": NEVER}, 0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert [str(key) for key in keys if key.looks] == ["key7"]
    for poll in polls:
        poll.cancel()
