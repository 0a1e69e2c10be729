"""PushHandler into a real VictoriaLogs, which takes Loki's push API; and where useful into Loki.

A Loki is used when `TAGTRAIL_LOKI_BIN` names one, beside a stand-in.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import serve
from observability.loki import PushHandler
from observability.loki.words import METADATA, to_ns
from observability.stack.records import VICTORIA_LOGS
from tests.conftest import free_port
from tests.integration.command import tagtrail
from tests.integration.conftest import Deploy, Instance
from tests.integration.loki_api import PASSWORD, TENANT, LokiApi, run_loki, run_loki_api
from tests.integration.pipelines import Keeper, VictoriaLogs
from tests.integration.processes import run_script, wait_until
from tests.integration.programs import require
from tests.integration.records import read_records

LIMIT_S = 60.0
THREADS, EACH = 8, 2_500


@dataclass
class Victoria:
    """A VictoriaLogs that can be ended and started again on its port."""

    keeper: Keeper
    ask: VictoriaLogs

    @property
    def push_url(self) -> str:
        return f"{self.ask.url}/insert/loki/api/v1/push"

    def find(self, text: str, count: int) -> list[dict[str, Any]]:
        """The records of a query, as soon as there are so many."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = self.ask.answer(text)
            return len(found) >= count

        wait_until(look, LIMIT_S)
        return found


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victoria]:
    folder = tmp_path_factory.mktemp("victoria")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(require(VICTORIA_LOGS)),
        f"-httpListenAddr={url.removeprefix('http://')}",
        f"-storageDataPath={folder / 'store'}",
        "-loki.disableMessageParsing",  # the line stays whole, as in Loki
        "-loggerLevel=WARN",
    ]
    keeper = Keeper(command, f"{url}/health", folder / "store.log")
    try:
        keeper.start()
        yield Victoria(keeper, VictoriaLogs(url))
    finally:
        keeper.stop()


Make = Callable[..., tuple[PushHandler, logging.Logger]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a handler with a logger of its own."""
    handlers: list[PushHandler] = []

    def make_one(url: str, *args: Any, **options: Any) -> tuple[PushHandler, logging.Logger]:
        handler = PushHandler(url, *args, **options)
        handlers.append(handler)
        logger = logging.Logger("pushed", logging.DEBUG)
        logger.addHandler(handler)
        return handler, logger

    yield make_one
    for handler in handlers:
        handler.close()


def messages(found: list[dict[str, Any]]) -> list[str]:
    return [json.loads(record["_msg"])["message"] for record in found]


def test_records_of_many_threads_arrive_once_each_with_labels_and_metadata(
    victoria: Victoria, make: Make
) -> None:
    handler, logger = make(victoria.push_url, {"job": "many"}, queue_records=THREADS * EACH)

    def work(thread: int) -> None:
        for number in range(EACH):
            logger.log((logging.INFO, logging.ERROR)[number % 2], "%d %d", thread, number)

    threads = [threading.Thread(target=work, args=[thread]) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush(LIMIT_S)
    assert (handler.sent, handler.dropped, handler.waiting) == (THREADS * EACH, {}, 0)

    found = victoria.find('{job="many"}', THREADS * EACH)
    expected = {f"{thread} {number}" for thread in range(THREADS) for number in range(EACH)}
    assert len(found) == len(expected)
    assert set(messages(found)) == expected
    assert Counter(record["_stream"] for record in found) == {
        f'{{job="many",level="{level}"}}': THREADS * EACH // 2 for level in ("INFO", "ERROR")
    }
    for record in found[:100]:
        line = json.loads(record["_msg"])
        assert to_ns(record["_time"]) == to_ns(line["time"])
        assert {n: record[n] for n in ("logger", "kind", "pid")} == {
            **{"logger": "pushed", "kind": "log"},
            "pid": str(line["pid"]),
        }
    assert len({record["_time"] for record in found}) == len(found)


def test_nothing_is_lost_while_the_store_is_away_and_the_queue_has_room(
    victoria: Victoria, make: Make
) -> None:
    handler, logger = make(victoria.push_url, {"job": "away"}, flush_s=0.05, timeout_s=5)
    logger.info("before")
    victoria.find('{job="away"}', 1)
    victoria.keeper.stop()
    for number in range(2_000):
        logger.info("during %d", number)
    wait_until(lambda: handler.waiting == 2_000, LIMIT_S)
    victoria.keeper.start()
    handler.flush(LIMIT_S)

    assert (handler.sent, handler.dropped) == (2_001, {})
    found = messages(victoria.find('{job="away"}', 2_001))
    # A request whose answer was lost would be sent again: what counts is that nothing is missing.
    assert set(found) == {"before", *(f"during {number}" for number in range(2_000))}


def test_a_line_of_any_text_comes_as_it_is(victoria: Victoria, make: Make) -> None:
    handler, logger = make(victoria.push_url, {"job": "odd"})
    said = ['a\nb\t"c"\\', "\x00\x7f", "ünï 😀", "x" * 100_000, "half \ud800"]
    for text in said:
        logger.info(text)
    handler.flush(LIMIT_S)

    found = sorted(victoria.find('{job="odd"}', len(said)), key=lambda record: record["_time"])
    told = messages(found)
    assert told[:3] == said[:3]
    assert len(told[3]) < 66_000
    assert told[4] == "half \\ud800"


# In a backend.


class Pushing:
    """Sends its records to a Loki by itself."""

    def __init__(self, url: str) -> None:
        self.handler = PushHandler(url, {"env": "test"}, flush_s=30.0)
        logging.getLogger().addHandler(self.handler)

    def __call__(self, request: Any) -> str:
        logging.getLogger("pushing").info("inside")
        return str(self.handler.waiting)


def test_in_a_backend_a_record_arrives_with_its_request_even_if_the_replica_ends_next(
    victoria: Victoria, instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(Pushing, victoria.push_url)
    answer = instance.http.get(f"/{name}", headers={"X-Request-ID": "pushed-1"})
    assert int(answer.text) >= 1  # it waits for its batch to fill
    serve.delete_endpoint(name)
    serve.delete_backend(name)

    (found,) = victoria.find('request_id:="pushed-1"', 1)
    (written,) = read_records(
        lambda r: r.get("request_id") == "pushed-1" and r["kind"] == "log", name=name
    )
    line = json.loads(found["_msg"])
    # The same but for its time: two handlers, each of whose records has its own.
    assert {**line, "time": ""} == {**written, "time": ""}
    assert found["_stream"] == (
        f'{{backend="{name}",component="serve",env="test",job="serve",level="INFO"}}'
    )
    assert found["replica"] == answer.headers["X-Serve-Replica"]
    assert {n: found[n] for n in METADATA if n in line} == {
        n: str(line[n]) for n in METADATA if n in line
    }


# Into Loki, and out again with the command.


@pytest.fixture(params=["stand-in", "real"])
def loki(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with run_loki(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def api() -> Iterator[LokiApi]:
    with run_loki_api() as found:
        yield found


def test_the_command_shows_what_a_handler_pushed(loki: str, make: Make) -> None:
    handler, logger = make(loki, {"job": "serve"})
    for number in range(2_500):
        logger.info("number %d", number)
    handler.flush(LIMIT_S)

    done = tagtrail("logs", "--loki", loki, "--json")
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    assert shown == [f"number {number}" for number in range(2_500)]


def test_what_a_loki_refuses_is_dropped_counted_and_told(
    api: LokiApi, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    api.failures = [400]
    handler, logger = make(api.url)
    logger.info("refused")
    handler.flush(LIMIT_S)
    logger.info("taken")
    handler.flush(LIMIT_S)

    assert (handler.sent, handler.dropped) == (1, {"refused": 1})
    assert f"{api.url} answers 400: too busy. They are dropped" in capsys.readouterr().err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_loki_that_has_too_much_to_do_gets_it_again(
    api: LokiApi, make: Make, status: int
) -> None:
    api.failures = [status]
    handler, logger = make(api.url)
    logger.info("again")
    handler.flush(LIMIT_S)
    assert (handler.sent, handler.dropped, api.pushes) == (1, {}, 1)


def test_tenant_and_credential_go_along(api: LokiApi, make: Make) -> None:
    api.needs_password = True
    credential = PASSWORD.replace(":", "%3A").replace("@", "%40")
    url = api.url.replace("http://", f"http://me:{credential}@")
    handler, logger = make(url, tenant="team-a")
    logger.info("ours")
    handler.flush(LIMIT_S)
    assert handler.sent == 1
    assert list(api.entries) == ["team-a"]


def test_at_a_programs_end_what_waits_is_sent(api: LokiApi) -> None:
    done = run_script(
        """
        import logging, sys
        from observability.loki import PushHandler
        logging.basicConfig(handlers=[PushHandler(sys.argv[1])], level="INFO")
        for number in range(100):
            logging.info("number %d", number)
        """,
        api.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (kept,) = api.entries[TENANT].values()
    assert len(kept) == 100
    assert [dict(labels)["job"] for labels in api.entries[TENANT]] == ["python"]


def test_a_program_ends_though_nobody_takes_its_records() -> None:
    done = run_script(
        """
        import logging, sys
        from observability.loki import PushHandler
        handler = PushHandler(sys.argv[1], close_s=0.5)
        logging.getLogger().addHandler(handler)
        logging.warning("never sent")
        import atexit
        atexit._run_exitfuncs()
        print(handler.dropped)
        """,
        f"http://127.0.0.1:{free_port()}",
    )
    assert done.returncode == 0
    assert done.stdout == "{'closed': 1}\n"
    assert done.stderr.count("Records can't be pushed to Loki: ConnectionError") == 1
