"""The listening side of the broadcast, without a controller: what it makes of what it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest

from serve import watcher as watchers
from serve.watcher import Watcher


class Applied:
    """Remembers what was applied; a value may be held back, or refused."""

    def __init__(self) -> None:
        self.values: list[tuple[str, object]] = []
        self.refuses: dict[object, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.inside = 0
        self.most_inside = 0

    async def __call__(self, key: str, value: object) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await self.gate.wait()
        self.inside -= 1
        if value in self.refuses:
            raise self.refuses[value]
        self.values.append((key, value))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(watchers, "FIRST_PAUSE_S", 0.001)
    yield


async def wanting(applied: Applied, *keys: str) -> Watcher:
    watcher = Watcher("nobody", "", applied, "handle")
    for key in keys:
        _tasks.add(asyncio.create_task(watcher.want(key)))
    await asyncio.sleep(0)
    return watcher


_tasks: set[asyncio.Task[None]] = set()


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


async def test_an_older_value_of_the_same_controller_is_dropped() -> None:
    applied = Applied()
    watcher = await wanting(applied, "a")
    await watcher.take({"a": ((7, 5), "newer")})
    await watcher.take({"a": ((7, 4), "older")})
    await watcher.take({"a": ((7, 5), "again")})
    assert applied.values == [("a", "newer")]
    await watcher.take({"a": ((7, 6), "newest")})
    assert applied.values == [("a", "newer"), ("a", "newest")]


async def test_a_late_answer_of_a_former_controller_is_dropped() -> None:
    applied = Applied()
    watcher = await wanting(applied, "a")
    await watcher.take({"a": ((7, 90), "of the first")})
    await watcher.take({"a": ((3, 1), "of the second")})
    await watcher.take({"a": ((7, 91), "late")})
    assert [value for _, value in applied.values] == ["of the first", "of the second"]


async def test_values_of_a_key_are_applied_one_after_the_other_and_only_the_latest_waits() -> None:
    applied = Applied()
    watcher = await wanting(applied, "a")
    applied.gate.clear()
    takes = [asyncio.create_task(watcher.take({"a": ((7, n), n)})) for n in (1, 3, 2, 4)]
    await until(lambda: applied.inside)
    for _ in range(10):
        await asyncio.sleep(0)
    applied.gate.set()
    await asyncio.gather(*takes)
    assert applied.values == [("a", 1), ("a", 4)]
    assert applied.most_inside == 1


async def test_a_key_that_cannot_be_applied_holds_up_no_other_and_is_tried_again() -> None:
    applied = Applied()
    watcher = await wanting(applied, "a", "b")
    applied.refuses["bad"] = OSError("disk full")
    await watcher.take({"a": ((7, 1), "bad"), "b": ((7, 2), "good")})
    assert applied.values == [("b", "good")]
    await until(lambda: watcher.refusals()["a"].attempts > 3)
    refusal = watcher.refusals()["a"]
    assert (refusal.stamp, refusal.reason) == ((7, 1), "OSError: disk full")
    del applied.refuses["bad"]
    await until(lambda: applied.values == [("b", "good"), ("a", "bad")])
    assert watcher.refusals() == {}


async def test_a_newer_value_ends_the_trouble_of_the_one_before() -> None:
    applied = Applied()
    watcher = await wanting(applied, "a")
    applied.refuses["bad"] = OSError("disk full")
    await watcher.take({"a": ((7, 1), "bad")})
    await watcher.take({"a": ((7, 2), "good")})
    assert watcher.refusals() == {}
    assert applied.values == [("a", "good")]


async def test_each_reason_is_logged_once_and_each_attempt_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    applied = Applied()
    watcher = await wanting(applied, "a")
    applied.refuses["bad"] = OSError("disk full")
    with caplog.at_level(logging.ERROR, "ray.serve"):
        await watcher.take({"a": ((7, 1), "bad")})
        await until(lambda: watcher.refusals()["a"].attempts > 2)
        applied.refuses["bad"] = OSError("no descriptors")
        reached = watcher.refusals()["a"].attempts + 2
        await until(lambda: watcher.refusals()["a"].attempts > reached)
    watcher.stop()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "disk full" in caplog.messages[0]
    assert "no descriptors" in caplog.messages[1]
    (family,) = watcher.families()
    assert family.values[("handle",)] == float(watcher.refusals()["a"].attempts)


async def test_who_wants_a_key_hears_when_its_first_value_is_applied() -> None:
    applied = Applied()
    watcher = Watcher("nobody", "", applied, "handle")
    wanting_it = asyncio.create_task(watcher.want("a"))
    await asyncio.sleep(0)
    assert not wanting_it.done()
    await watcher.take({"a": ((7, 1), None)})
    await wanting_it
    await watcher.want("a")  # at once from now on
