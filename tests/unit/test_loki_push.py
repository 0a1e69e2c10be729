"""The handler: what it takes, what it makes of it, and what it does not do."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from observability.instrument.context import RequestContext, request_context
from observability.instrument.origin import set_origin
from observability.loki.push import PushHandler
from observability.loki.sender import THREAD_NAME
from tests.integration.loki_api import TENANT, LokiApi, run_loki_api

ORIGIN = {"component": "serve", "backend": "b", "replica": "b#1", "node": "10.0.0.1", "pid": 7}


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


Make = Callable[..., tuple[PushHandler, logging.Logger]]


@pytest.fixture
def make(silent: socket.socket) -> Iterator[Make]:
    """Makes a handler with a logger of its own, which passes nothing on.

    It pushes to who never answers, unless another address is given.
    """
    handlers: list[PushHandler] = []

    def make_one(url: str = "", **options: Any) -> tuple[PushHandler, logging.Logger]:
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        handler = PushHandler(url or nobody, **{"close_s": 0.01, "timeout_s": 60.0, **options})
        handlers.append(handler)
        logger = logging.Logger(f"pushed {len(handlers)}", logging.DEBUG)
        logger.addHandler(handler)
        return handler, logger

    yield make_one
    for handler in handlers:
        handler.close()
    silent.close()  # which ends the requests
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(20)


@pytest.fixture
def loki() -> Iterator[LokiApi]:
    with run_loki_api() as api:
        yield api


def pushed(loki: LokiApi, handler: PushHandler) -> list[dict[str, Any]]:
    """What the handler was told, as it came to the Loki."""
    handler.flush(20)
    assert (handler.waiting, handler.dropped) == (0, {})
    return received(loki)


def received(loki: LokiApi) -> list[dict[str, Any]]:
    """What came to it so far, in the order of coming."""
    streams = loki.entries.get(TENANT, {}).values()
    return [json.loads(line) for entries in streams for _, line in entries]


def test_logging_does_not_wait_for_a_server_that_never_answers(make: Make) -> None:
    handler, logger = make(queue_records=100, batch_records=10)

    for number in range(250):  # it would take 250 minutes
        logger.info("number %d", number)

    assert handler.dropped == {"queue_full": 150}
    assert (handler.waiting, handler.sent) == (100, 0)
    handler.close()
    assert handler.dropped == {"queue_full": 150, "closed": 100}
    logger.info("after the end")
    assert handler.dropped == {"queue_full": 150, "closed": 101}


def senders() -> set[threading.Thread]:
    """The threads that push now; one of an earlier test may still be ending."""
    return {thread for thread in threading.enumerate() if thread.name == THREAD_NAME}


def test_nothing_is_done_before_the_first_record(make: Make) -> None:
    before = senders()
    handler, logger = make()
    handler.flush()
    assert senders() <= before
    logger.info("first")
    assert len(senders() - before) == 1


def test_a_handler_that_took_nothing_is_closed_at_once(make: Make) -> None:
    handler, _ = make()
    handler.close()
    handler.close()
    assert (handler.sent, handler.dropped) == (0, {})


def test_a_closed_handler_starts_no_thread(make: Make) -> None:
    handler, logger = make()
    handler.close()
    before = senders()
    logger.info("late")
    assert senders() <= before
    assert handler.dropped == {"closed": 1}


def test_a_line_is_the_record_that_the_segments_have(
    make: Make, loki: LokiApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, logger = make(loki.url)
    set_origin({**ORIGIN, "team": "search"})
    token = request_context.set(RequestContext("r-1", "e", "/e", trace_id="t" * 32))
    try:
        logger.warning("said %s", "it", extra={"user": "anna"})
    finally:
        request_context.reset(token)
        set_origin({})

    (record,) = pushed(loki, handler)
    assert record.pop("time").endswith("Z")
    assert record.pop("line") > 0
    assert record == {
        **ORIGIN,
        **{"kind": "log", "level": "WARNING", "logger": logger.name, "message": "said it"},
        **{"file": "test_loki_push.py", "extra": {"user": "anna"}, "team": "search"},
        **{"request_id": "r-1", "endpoint": "e", "route": "/e", "trace_id": "t" * 32},
    }


def test_outside_of_tagtrail_a_line_tells_the_process(make: Make, loki: LokiApi) -> None:
    handler, logger = make(loki.url)
    logger.info("alone")
    (record,) = pushed(loki, handler)
    assert record["pid"] == os.getpid()
    assert not {"component", "backend", "replica"} & set(record)


def test_times_rise_strictly(make: Make, loki: LokiApi) -> None:
    handler, logger = make(loki.url)
    for _ in range(500):
        logger.info("x")
    times = [record["time"] for record in pushed(loki, handler)]
    assert len(times) == 500
    assert times == sorted(set(times))


def test_what_can_not_be_told_is_told_otherwise_and_raises_nothing(
    make: Make, loki: LokiApi
) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("odd")

    handler, logger = make(loki.url)
    logger.info("%d", "no number")
    logger.info(Odd())
    assert len(pushed(loki, handler)) == 2


def test_a_record_that_makes_no_line_is_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, logger = make()

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(handler, "_find_lines", fail)
    logger.info("x")
    assert handler.dropped == {"failed": 1}


def test_a_filter_and_the_level_decide_as_usual(make: Make, loki: LokiApi) -> None:
    handler, logger = make(loki.url)
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.info("too quiet")
    logger.warning("a secret")
    logger.warning("well")
    assert [record["message"] for record in pushed(loki, handler)] == ["well"]


def test_what_the_senders_themselves_say_is_not_sent(make: Make) -> None:
    # urllib3 tells of every connection and of every answer.
    (first, logger), (second, other) = make(flush_s=0.01), make(flush_s=0.01)
    urllib3 = logging.getLogger("urllib3")
    before = urllib3.level
    urllib3.setLevel(logging.DEBUG)
    said: list[str] = []
    heard = logging.Handler()
    heard.emit = lambda record: said.append(record.threadName or "")  # type: ignore[method-assign]
    for handler in (first, second, heard):
        urllib3.addHandler(handler)
    try:
        logger.info("x")
        other.info("y")
        for _ in range(2_000):
            if THREAD_NAME in said:
                break
            threading.Event().wait(0.01)
    finally:
        for handler in (first, second, heard):
            urllib3.removeHandler(handler)
        urllib3.setLevel(before)
    assert THREAD_NAME in said
    assert (first.waiting, second.waiting) == (1, 1)


def test_logging_goes_on_while_logging_itself_shuts_down(make: Make) -> None:
    # logging.shutdown and dictConfig hold the handler's lock while they flush.
    handler, logger = make()
    is_done = threading.Event()
    handler.acquire()
    try:
        threading.Thread(target=lambda: (logger.info("x"), is_done.set())).start()
        assert is_done.wait(20)
    finally:
        handler.release()
    assert handler.waiting == 1


def test_a_child_of_a_fork_sends_nothing_of_its_parents(make: Make, loki: LokiApi) -> None:
    handler, logger = make(loki.url, flush_s=60.0)
    logger.info("parent's")
    pid = os.fork()
    if pid == 0:
        try:
            logger.info("child's")
            handler.flush(20)
        finally:
            os._exit(handler.waiting)
    assert os.waitpid(pid, 0)[1] == 0
    assert [record["message"] for record in received(loki)] == ["child's"]
    assert [record["message"] for record in pushed(loki, handler)] == ["child's", "parent's"]


# What is refused when it is made.


@pytest.mark.parametrize("name", ["a-b", "1st", "", "a b"])
def test_a_label_that_loki_refuses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of a label"):
        PushHandler("http://loki:3100", {name: "x"})


def test_a_label_that_records_have_is_refused() -> None:
    with pytest.raises(ValueError, match="'level' can't be given"):
        PushHandler("http://loki:3100", {"level": "x"})


def test_a_label_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'n' is 5\. Expected a text"):
        PushHandler("http://loki:3100", {"n": 5})  # type: ignore[dict-item]


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no address of a Loki"):
        PushHandler("loki:3100")


@pytest.mark.parametrize(
    "name",
    [
        *("batch_records", "batch_bytes", "flush_s", "queue_records", "queue_bytes"),
        *("timeout_s", "close_s"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PushHandler("http://loki:3100", **{name: value})  # type: ignore[arg-type]
