"""Batches: what a batch may answer, how calls are collected, what the decorator refuses."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from serve import batch_queue, batching
from serve.batch_queue import BatchQueue, check_batch_result
from serve.batching import accept_batch, accepts_batches, batch
from serve.errors import RayServeException


def test_the_marker_marks_and_returns_the_callable_itself() -> None:
    def handler(requests: list[Any]) -> list[Any]:
        return requests

    assert not accepts_batches(handler)
    assert accept_batch(handler) is handler
    assert accepts_batches(handler)


@pytest.mark.parametrize(
    "result",
    [[1, 2], (1, 2), np.array([1, 2]), range(1, 3)],
    ids=["list", "tuple", "array", "range"],
)
def test_an_ordered_result_of_the_batchs_length_is_taken(result: object) -> None:
    assert check_batch_result(result, 2) == [1, 2]


def test_the_items_of_an_array_stay_numpys() -> None:
    assert all(isinstance(item, np.int64) for item in check_batch_result(np.array([1, 2]), 2))


@pytest.mark.parametrize(
    "result",
    [{1, 2}, {1: 1, 2: 2}, frozenset({1, 2}), "ab", b"ab", None, 2, iter([1, 2])],
    ids=lambda result: type(result).__name__,
)
def test_a_result_without_order_or_length_is_refused(result: object) -> None:
    with pytest.raises(
        RayServeException, match="RayServe expects an ordered iterable object but the replica"
    ):
        check_batch_result(result, 2)


def test_a_result_of_another_length_is_refused_with_both_lengths() -> None:
    with pytest.raises(
        RayServeException,
        match=r"Worker doesn't preserve batch size\. The input has length 2 but the returned list "
        r"has length 3",
    ):
        check_batch_result([1, 2, 3], 2)


class Recorder:
    """A batch function that doubles, remembers its batches, and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        return [2 * item for item in items]


async def test_calls_that_arrive_together_run_as_one_batch() -> None:
    run = Recorder()
    queue = BatchQueue(run, 10, 0)
    assert await asyncio.gather(*(queue.put(number) for number in range(3))) == [0, 2, 4]
    assert run.batches == [[0, 1, 2]]


async def test_no_batch_is_larger_than_allowed_and_order_is_kept() -> None:
    run = Recorder()
    queue = BatchQueue(run, 2, 0)
    assert await asyncio.gather(*(queue.put(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert run.batches == [[0, 1], [2, 3], [4]]


async def test_what_arrives_while_a_batch_runs_makes_the_next_one() -> None:
    run = Recorder()
    queue = BatchQueue(run, 10, 0)
    run.gate.clear()
    first = queue.put(1)
    while not run.batches:
        await asyncio.sleep(0)
    others = [queue.put(2), queue.put(3)]
    await asyncio.sleep(0)
    assert run.batches == [[1]]
    run.gate.set()
    await asyncio.gather(first, *others)
    assert run.batches == [[1], [2, 3]]


async def test_a_full_batch_does_not_wait_for_the_timeout() -> None:
    run = Recorder()
    queue = BatchQueue(run, 2, 60)
    first = queue.put(1)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.gather(first, queue.put(2)), 60) == [2, 4]


async def test_a_batch_that_does_not_fill_runs_after_the_timeout() -> None:
    run = Recorder()
    queue = BatchQueue(run, 2, 0.02)
    begun = asyncio.get_running_loop().time()
    assert await queue.put(1) == 2
    assert asyncio.get_running_loop().time() - begun >= 0.015


async def test_the_failure_of_a_batch_reaches_all_its_callers_and_no_later_one() -> None:
    calls = 0

    async def fail_once(items: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError("boom")
        return items

    queue = BatchQueue(fail_once, 2, 0)
    results = await asyncio.gather(*(queue.put(n) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError, ZeroDivisionError, int]


async def test_a_batch_answer_of_a_wrong_length_reaches_all_its_callers() -> None:
    async def lose_one(items: list[int]) -> list[int]:
        return items[1:]

    queue = BatchQueue(lose_one, 2, 0)
    results = await asyncio.gather(queue.put(1), queue.put(2), return_exceptions=True)
    assert [type(result) for result in results] == [RayServeException, RayServeException]


async def test_a_cancellation_inside_a_batch_leaves_no_caller_waiting() -> None:
    async def let_one_escape(items: list[int]) -> list[int]:
        if items == [1, 2]:
            raise asyncio.CancelledError
        return items

    queue = BatchQueue(let_one_escape, 2, 0)
    results = await asyncio.wait_for(
        asyncio.gather(*(queue.put(n) for n in (1, 2, 3)), return_exceptions=True), 5
    )
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2 + [int]


class Odd(BaseException):
    """No Exception, and none of Python's own."""


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, Odd, StopIteration, ValueError]
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_whatever_a_batch_raises_answers_all_its_callers_and_the_next_batch_runs(
    kind: type[BaseException], is_async: bool
) -> None:
    async def give(items: list[int]) -> list[int]:
        return items

    async def fail(items: list[int]) -> list[int]:
        raise kind("boom")

    def run(items: list[int]) -> Awaitable[list[int]]:
        if items != [1, 2]:
            return give(items)
        if is_async:
            return fail(items)
        raise kind("boom")

    queue = BatchQueue(run, 2, 0)
    results = await asyncio.wait_for(
        asyncio.gather(*(queue.put(n) for n in (1, 2, 3)), return_exceptions=True), 60
    )
    expected = RuntimeError if kind is StopIteration else kind  # as Python has it in coroutines
    assert [type(result) for result in results] == [expected, expected, int]
    assert await queue.put(4) == 4


async def test_a_context_that_cannot_be_entered_answers_the_callers_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(context: object) -> None:
        raise OSError("an exporter's")

    async def give(items: list[int]) -> list[int]:
        return items

    queue = BatchQueue(give, 2, 0)
    with monkeypatch.context() as patched:
        patched.setattr(batch_queue.tracing, "enter", refuse)
        with pytest.raises(OSError, match="an exporter's"):
            await asyncio.wait_for(queue.put(1), 60)
    assert await queue.put(2) == 2


async def test_a_call_whose_caller_gave_up_is_not_in_the_batch() -> None:
    run = Recorder()
    queue = BatchQueue(run, 10, 0)
    given_up, kept = queue.put(1), queue.put(2)
    given_up.cancel()
    assert await kept == 4
    assert run.batches == [[2]]


async def test_a_caller_that_gives_up_while_its_batch_runs_does_not_disturb_the_others() -> None:
    run = Recorder()
    run.gate.clear()
    queue = BatchQueue(run, 10, 0)
    given_up, kept = queue.put(1), queue.put(2)
    while not run.batches:
        await asyncio.sleep(0)
    given_up.cancel()
    run.gate.set()
    assert await kept == 4


async def test_a_batched_function_takes_one_item_and_gives_its_answer() -> None:
    sizes = []

    @batch(max_batch_size=3)
    async def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    assert await asyncio.gather(*(double(n) for n in range(4))) == [0, 2, 4, 6]
    assert sizes == [3, 1]


async def test_the_decorator_works_without_parentheses_and_keeps_the_name() -> None:
    @batch
    async def double(items: list[int]) -> list[int]:
        """Twice."""
        return [2 * item for item in items]

    assert await double(2) == 4
    assert (double.__name__, double.__doc__) == ("double", "Twice.")


class Model:
    """A class with a batched method; each instance adds its own number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sizes: list[int] = []

    @batch(max_batch_size=5)
    async def add(self, items: list[int]) -> list[int]:
        self.sizes.append(len(items))
        return [item + self.number for item in items]


async def test_a_batched_method_knows_its_instance() -> None:
    model = Model(100)
    assert await asyncio.gather(model.add(1), model.add(2)) == [101, 102]
    assert model.sizes == [2]


async def test_two_instances_do_not_share_a_batch() -> None:
    one, ten = Model(1), Model(10)
    assert await asyncio.gather(one.add(0), ten.add(0), one.add(1)) == [1, 10, 2]
    assert (one.sizes, ten.sizes) == ([2], [1])


@dataclass
class Unhashable:
    """Instances are equal and have no hash, as those of every plain dataclass."""

    number: int

    @batch
    async def identify(self, items: list[int]) -> list[int]:
        return [id(self)] * len(items)


async def test_instances_that_are_equal_and_have_no_hash_have_batches_of_their_own() -> None:
    one, other = Unhashable(1), Unhashable(1)
    assert await asyncio.gather(one.identify(0), other.identify(0)) == [id(one), id(other)]


@pytest.mark.slow
async def test_a_batched_method_does_not_keep_its_instance_alive() -> None:
    model = Model(1)
    await model.add(1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.slow
async def test_an_instance_that_is_gone_takes_its_queue_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queues: weakref.WeakSet[BatchQueue] = weakref.WeakSet()

    class Watched(BatchQueue):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            queues.add(self)

    monkeypatch.setattr(batching, "BatchQueue", Watched)
    model = Model(1)
    await model.add(1)
    assert len(queues) == 1
    del model
    gc.collect()
    assert len(queues) == 0


async def test_a_batched_class_can_be_shipped_after_it_was_used() -> None:
    class Local:
        @batch(max_batch_size=2)
        async def double(self, items: list[int]) -> list[int]:
            return [2 * item for item in items]

    await Local().double(1)
    assert await cloudpickle.loads(cloudpickle.dumps(Local))().double(3) == 6


async def test_a_batched_call_with_another_number_of_arguments_is_refused() -> None:
    @batch
    async def double(items: list[int]) -> list[int]:
        return items

    with pytest.raises(ValueError, match=r"takes one positional argument. Got 2\."):
        await double(1, 2)
    with pytest.raises(ValueError, match=r"takes one positional argument. Got 0\."):
        await double()
    with pytest.raises(ValueError, match=r"takes one positional argument. Got 2\."):
        await Model(1).add(1, 2)


async def test_a_batched_call_with_keyword_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Got keyword arguments \['items'\]"):
        await Model(1).add(items=1)


def _plain(items: list[Any]) -> list[Any]:
    return items


async def _async(items: list[Any]) -> list[Any]:
    return items


@pytest.mark.parametrize("thing", [1, "text", [_async]])
def test_the_decorator_refuses_what_cannot_be_called(thing: Any) -> None:
    with pytest.raises(TypeError, match="takes a function"):
        batch(thing)
    with pytest.raises(TypeError, match="takes a function"):
        batch(max_batch_size=2)(thing)


@pytest.mark.parametrize("decorate", [batch, batch(max_batch_size=2)])
def test_the_decorator_refuses_a_function_that_is_not_async(decorate: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"must be 'async def'\. '_plain' is not"):
        decorate(_plain)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"max_batch_size": "a"}, TypeError, "max_batch_size"),
        ({"max_batch_size": 1.5}, TypeError, "max_batch_size"),
        ({"max_batch_size": True}, TypeError, "max_batch_size"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size"),
        ({"max_batch_size": -1}, ValueError, "max_batch_size"),
        ({"batch_wait_timeout_s": "a"}, TypeError, "batch_wait_timeout_s"),
        ({"batch_wait_timeout_s": True}, TypeError, "batch_wait_timeout_s"),
        ({"batch_wait_timeout_s": -0.1}, ValueError, "batch_wait_timeout_s"),
    ],
    ids=str,
)
def test_the_decorator_refuses_arguments_that_make_no_sense(
    options: dict[str, Any], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name):
        batch(**options)


async def test_a_batch_size_may_be_a_float_that_is_whole() -> None:
    @batch(max_batch_size=2.0)  # type: ignore[arg-type]
    async def count(items: list[int]) -> list[int]:
        return [len(items)] * len(items)

    assert await asyncio.gather(*(count(n) for n in range(3))) == [2, 2, 1]
