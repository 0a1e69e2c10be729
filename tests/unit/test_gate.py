"""The limit of requests in flight."""

from __future__ import annotations

import asyncio

import pytest

from serve.errors import QueueTimeoutError
from serve.replica.gate import Gate


async def start_waiting(gate: Gate) -> asyncio.Task[None]:
    task = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_enter_as_the_limit_allows() -> None:
    gate = Gate(2, 1, "gate")
    assert [gate.try_enter() for _ in range(3)] == [True, True, False]
    assert gate.inside == 2


async def test_a_place_given_back_is_free_again() -> None:
    gate = Gate(1, 1, "gate")
    gate.try_enter()
    gate.leave()
    assert gate.try_enter()


async def test_those_who_wait_enter_in_the_order_they_came() -> None:
    gate = Gate(1, 5, "gate")
    gate.try_enter()
    first, second = await start_waiting(gate), await start_waiting(gate)
    assert gate.waiting == 2
    gate.leave()
    await settle()
    assert (first.done(), second.done(), gate.inside, gate.waiting) == (True, False, 1, 1)
    gate.leave()
    await second


async def test_nobody_overtakes_those_who_wait() -> None:
    gate = Gate(1, 5, "gate")
    gate.try_enter()
    waiting = await start_waiting(gate)
    gate.leave()
    assert not gate.try_enter()
    await waiting
    assert gate.inside == 1


async def test_whoever_waits_while_there_is_room_enters_at_once() -> None:
    gate = Gate(1, 5, "gate")
    await asyncio.wait_for(gate.wait(), 60)
    assert gate.inside == 1


async def test_a_wait_that_takes_too_long_ends_with_an_error_that_names_the_limits() -> None:
    gate = Gate(1, 0.01, "Replica 'a#1'")
    gate.try_enter()
    with pytest.raises(
        QueueTimeoutError,
        match=r"^Replica 'a#1' had no place free within 0\.01 s: 1 of 1 \(max_concurrent_queries\)",
    ):
        await gate.wait()
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_whoever_gave_up_takes_no_place_later() -> None:
    gate = Gate(1, 5, "gate")
    gate.try_enter()
    given_up, patient = await start_waiting(gate), await start_waiting(gate)
    given_up.cancel()
    await settle()
    gate.leave()
    await patient
    assert given_up.cancelled()
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_a_place_given_in_the_moment_of_cancelling_is_not_lost() -> None:
    gate = Gate(1, 5, "gate")
    gate.try_enter()
    task = await start_waiting(gate)
    gate.leave()  # the place is given, the task has not run yet
    task.cancel()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    taken = 0 if isinstance(result, asyncio.CancelledError) else 1
    assert gate.inside == taken


async def test_a_larger_limit_lets_in_who_waits() -> None:
    gate = Gate(1, 5, "gate")
    gate.try_enter()
    waiting = [await start_waiting(gate), await start_waiting(gate)]
    gate.resize(3, 5)
    await asyncio.gather(*waiting)
    assert gate.inside == 3


async def test_a_smaller_limit_lets_stay_who_is_inside_and_nobody_else_in() -> None:
    gate = Gate(2, 5, "gate")
    gate.try_enter()
    gate.try_enter()
    gate.resize(1, 5)
    gate.leave()
    assert gate.inside == 1
    assert not gate.try_enter()
    gate.leave()
    assert gate.try_enter()


async def test_a_resize_changes_how_long_later_ones_wait() -> None:
    gate = Gate(1, 60, "gate")
    gate.try_enter()
    gate.resize(1, 0.01)
    with pytest.raises(QueueTimeoutError, match=r"within 0\.01 s"):
        await gate.wait()
