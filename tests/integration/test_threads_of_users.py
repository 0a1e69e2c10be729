"""What users' threads and pools say and call belongs to the request that they work for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import anyio.to_thread
import pytest

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records

KINDS = [
    "thread",
    "timer",
    "submit",
    "run_in_executor",
    "default_executor",
    "thread_pool",
    "anyio",
]


def answer(request: Any) -> str:
    """What the threads call."""
    return "fine"


class Threads:
    """Works in threads of many kinds, from a coroutine."""

    def __init__(self, below: str) -> None:
        self._below = below
        self._executor = ThreadPoolExecutor(2)
        self._pool = ThreadPool(2)
        self._both = threading.Barrier(2, timeout=60)

    async def __call__(self, request: Any) -> str:
        kind = request.query_params["kind"]
        work = partial(self._work, kind)
        loop = asyncio.get_running_loop()
        if kind == "thread":
            await asyncio.to_thread(_run, threading.Thread(target=work))
        elif kind == "timer":
            await asyncio.to_thread(_run, threading.Timer(0, work))
        elif kind == "submit":
            await asyncio.wrap_future(self._executor.submit(work))
        elif kind == "run_in_executor":
            await loop.run_in_executor(self._executor, work)
        elif kind == "default_executor":
            await loop.run_in_executor(None, work)
        elif kind == "thread_pool":
            await asyncio.to_thread(self._pool.apply_async(work).get, 60)
        elif kind == "anyio":
            await anyio.to_thread.run_sync(work)
        return "done"

    @serve.expose
    def at_once(self, request: Any) -> str:
        """Two requests are in the one pool at the same time."""
        self._executor.submit(self._meet).result(60)
        return "done"

    @serve.expose
    async def later(self, request: Any) -> str:
        """Says something once the request is over."""
        threading.Timer(1.0, partial(logging.getLogger("user").info, "said later")).start()
        return "done"

    @serve.expose
    async def failing(self, request: Any) -> str:
        threading.Thread(target=_fail).start()
        return "done"

    @serve.expose
    async def own(self, request: Any) -> str:
        """A thread that is started for all requests."""
        thread = threading.Thread(target=logging.getLogger("user").info, args=("of nobody",))
        contextvars.Context().run(thread.start)
        return "done"

    def _meet(self) -> None:
        self._both.wait()
        logging.getLogger("user").info("said at once")

    def _work(self, kind: str) -> None:
        serve.get_handle(self._below).call().result(60)
        logging.getLogger("user").info("said in %s", kind)  # a step has a span once it calls


def _run(thread: threading.Thread) -> None:
    thread.start()
    thread.join(60)


def _fail() -> None:
    raise ValueError("in a thread")


@pytest.fixture(scope="module")
def threads(keep: Deploy) -> str:
    below = keep(answer)
    return keep(Threads, below, route="/threads_of_users", handler_threads=2)


def ask(instance: Instance, request_id: str, method: str = "", **asked: str) -> None:
    headers = {"X-Request-ID": request_id} | ({"X-Serve-Call-Method": method} if method else {})
    reply = instance.http.get("/threads_of_users", params=asked, headers=headers)
    assert reply.text == "done", reply.text


def lines(said: str) -> list[dict[str, Any]]:
    return read_records(lambda r: r["kind"] == "log" and said in r["message"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_thread_says_and_calls_is_its_requests(
    shared_instance: Instance, threads: str, kind: str
) -> None:
    for number in range(2):  # a pool's thread is there at the second
        ask(shared_instance, request_id := f"threads-{kind}-{number}", kind=kind)
        access = read_records(lambda r: r["kind"] == "access" and r["request_id"] == request_id)
        above, below = sorted(access, key=lambda r: r["way"], reverse=True)
        assert (above["way"], below["way"]) == ("http", "call")
        assert below["parent_id"] == above["span_id"]
        (line,) = [r for r in lines(f"said in {kind}") if r.get("request_id") == request_id]
        assert line["span_id"] == above["span_id"]
    assert len(lines(f"said in {kind}")) == 2


def test_two_requests_in_one_pool_at_the_same_time_keep_their_ids(
    shared_instance: Instance, threads: str
) -> None:
    names = ["threads-at-once-a", "threads-at-once-b"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: ask(shared_instance, name, "at_once"), names))
    assert sorted(r["request_id"] for r in lines("said at once")) == names


def test_a_thread_that_outlives_its_request_goes_on_in_it(
    shared_instance: Instance, threads: str
) -> None:
    ask(shared_instance, "threads-later", "later")
    wait_until(lambda: lines("said later"))
    (line,) = lines("said later")
    assert line["request_id"] == "threads-later"


def test_an_exception_that_a_thread_does_not_catch_is_told_with_its_request(
    shared_instance: Instance, threads: str
) -> None:
    ask(shared_instance, "threads-failing", "failing")
    wait_until(lambda: [r for r in lines("Uncaught") if r.get("request_id") == "threads-failing"])


def test_a_thread_that_is_started_in_an_empty_context_is_nobodys(
    shared_instance: Instance, threads: str
) -> None:
    ask(shared_instance, "threads-own", "own")
    wait_until(lambda: lines("of nobody"))
    (line,) = lines("of nobody")
    assert "request_id" not in line
