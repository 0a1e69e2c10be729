"""A `logging` record as a line: JSON for segments, Ray Serve 1.3's for people."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.fields import Kind, fields_of
from observability.instrument.context import RequestContext, request_context
from observability.instrument.encode import MAX_CHARS
from observability.instrument.formatter import JSONLines, LogLine, TextLines, read_message

STATIC = {
    "component": "serve",
    "backend": "my_backend",
    "replica": "my_backend#jZlnUI",
    "node": "10.0.0.1",
    "pid": 42161,
}
SUFFIX = " component=serve backend=my_backend replica=my_backend#jZlnUI"
RAYS_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


class Keeper(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """Takes what the logger `test.formatter` is told."""
    logger, handler = logging.getLogger("test.formatter"), Keeper()
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(1)
    yield handler
    logger.removeHandler(handler)
    logger.propagate = True


logger = logging.getLogger("test.formatter")


def make_record(message: object, *args: Any, **given: Any) -> logging.LogRecord:
    """A record as loggers make it."""
    record = logging.LogRecord("model", 20, "/code/snippet_logger.py", 13, message, args, None)
    record.__dict__.update(given)
    return record


def read(record: logging.LogRecord, static: dict[str, Any] | None = None) -> dict[str, Any]:
    """The fields of the line of a record, which must be one line of JSON."""
    line = JSONLines(static or STATIC).format_line(record, read_message(record))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


def show(record: logging.LogRecord, static: dict[str, Any] | None = None) -> str:
    """The text line of a record."""
    return TextLines(static or STATIC).format(record)


class Unwilling:
    """Can't be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


class Forging:
    """Shows itself as a record of another replica."""

    def __repr__(self) -> str:
        return '"}\n{"kind":"access","replica":"forged"}\x00\ud800'


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
ODD_THINGS = [
    *(Unwilling(), Forging(), ENDLESS, object(), None, b"\xff\n", {1}, 1j, "\ud800\n\x00"),
    *(math.nan, math.inf, 2**70, 10**5000),
]
odd_things = st.sampled_from(range(len(ODD_THINGS))).map(lambda number: ODD_THINGS[number])
hostile_texts = st.sampled_from(
    ['","replica":"x', '"}\n{"replica":"x"}\n', "\x00", "\r\n", "\u2028", "%s %d %(a)s", "\udcff"]
)
texts = st.lists(st.text() | hostile_texts, max_size=3).map("".join)
values = odd_things | texts | st.integers() | st.floats()


def test_a_record_has_the_fields_of_the_table_and_no_empty_ones() -> None:
    assert set(LogLine.__struct_fields__) | set(STATIC) == {f.name for f in fields_of(Kind.LOG)}
    record = read(make_record("count: %d", 5))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", record.pop("time"))
    assert record == {
        **{"kind": "log", "level": "INFO", "logger": "model", "message": "count: 5"},
        **{"file": "snippet_logger.py", "line": 13},
        **STATIC,
    }


def test_a_record_carries_the_request_it_was_said_in() -> None:
    context = RequestContext("r-1", "my_endpoint", "/f", trace_id="t" * 32)
    token = request_context.set(context)
    try:
        before = read(make_record("m"))
        context.refer()
        after = read(make_record("m"))
    finally:
        request_context.reset(token)
    assert before["request_id"] == "r-1"
    assert (before["endpoint"], before["route"], before["trace_id"]) == (
        *("my_endpoint", "/f"),
        "t" * 32,
    )
    assert "span_id" not in before
    assert after["span_id"] == context.span_id


def test_a_record_of_a_batch_names_all_its_requests_and_no_single_one() -> None:
    token = request_context.set(RequestContext("", "e", batch_ids=("r-1", "r-2")))
    try:
        record = read(make_record("m"))
    finally:
        request_context.reset(token)
    assert record["batch_ids"] == ["r-1", "r-2"]
    assert "request_id" not in record


def test_what_is_given_as_extra_is_kept_together(keeper: Keeper) -> None:
    logger.info("m", extra={"user": 7, "replica": "forged", "loss": 0.5})
    record = read(keeper.records[0])
    assert record["extra"] == {"user": 7, "replica": "forged", "loss": 0.5}
    assert record["replica"] == "my_backend#jZlnUI"


def test_one_word_of_extra_is_kept_whichever_record_factory_there_is(keeper: Keeper) -> None:
    class OwnRecord(logging.LogRecord):
        """What user code may make records of, Ray's factory forgotten."""

    before = logging.getLogRecordFactory()
    try:
        for factory in (before, logging.LogRecord, OwnRecord):
            logging.setLogRecordFactory(factory)
            logger.info("m", extra={"user": 7})
    finally:
        logging.setLogRecordFactory(before)
    assert [read(record)["extra"] for record in keeper.records] == [{"user": 7}] * 3


def test_what_other_formatters_leave_on_a_record_is_no_extra(keeper: Keeper) -> None:
    logger.info("count: %d", 5)
    logging.Formatter("%(asctime)s %(message)s").format(keeper.records[0])
    assert "extra" not in read(keeper.records[0])


def test_a_level_is_one_of_five_whatever_its_name_was_made_to(keeper: Keeper) -> None:
    before = logging.getLevelName(logging.ERROR)
    try:
        logging.addLevelName(logging.ERROR, "\x1b[31mERROR\x1b[0m")
        logger.error("m")
    finally:
        logging.addLevelName(logging.ERROR, before)
    assert read(keeper.records[0])["level"] == "ERROR"


def test_a_level_of_the_users_own_keeps_its_name(keeper: Keeper) -> None:
    logging.addLevelName(25, "NOTICE")
    logger.log(25, "m")
    assert read(keeper.records[0])["level"] == "NOTICE"


def test_the_thread_is_named_if_user_code_started_it(keeper: Keeper) -> None:
    logger.info("m")
    thread = threading.Thread(target=lambda: logger.info("m"), name="loader")
    thread.start()
    thread.join()
    assert ["thread" in read(record) for record in keeper.records] == [False, True]
    assert read(keeper.records[1])["thread"] == "loader"


def test_a_traceback_is_part_of_its_record(keeper: Keeper) -> None:
    try:
        raise KeyError('a\nb","replica":"forged')
    except KeyError:
        logger.exception("failed", stack_info=True)
    record = read(keeper.records[0])
    assert record["exception"].startswith("Traceback (most recent call last):\n")
    assert "KeyError: " in record["exception"]
    assert "Stack (most recent call last):" in record["exception"]
    assert (record["message"], record["level"]) == ("failed", "ERROR")
    assert record["replica"] == "my_backend#jZlnUI"


def test_asking_for_a_traceback_where_there_is_none_gives_none(keeper: Keeper) -> None:
    logger.error("failed", exc_info=True)
    assert "exception" not in read(keeper.records[0])
    assert show(keeper.records[0]).count("\n") == 0


@pytest.mark.parametrize("info", [True, ("a", "b", "c"), (), 5], ids=repr)
def test_a_traceback_that_is_none_loses_no_record(info: object) -> None:
    record = make_record("failed", exc_info=info)
    assert read(record)["message"] == "failed"
    assert show(record).splitlines()[0].endswith(f"-- failed{SUFFIX}")


def test_the_traceback_that_another_handler_made_is_taken() -> None:
    assert read(make_record("failed", exc_text="Traceback: x"))["exception"] == "Traceback: x"


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("count: %d", ("five",), "'count: %d' % ('five',) (not formatted: TypeError)"),
        ("count", (5,), "'count' % (5,) (not formatted: TypeError)"),
        ("%s", (Unwilling(),), "'%s' % <tuple, its repr raised ValueError> (not formatted: "),
        (Unwilling(), (), "<Unwilling, its repr raised ValueError> % () (not formatted: "),
        ("100%", (), "100%"),
        (7, (), "7"),
    ],
    ids=["type", "number", "argument", "message", "percent", "no text"],
)
def test_arguments_that_do_not_fit_are_told_as_they_are(
    message: object, args: tuple[object, ...], expected: str
) -> None:
    assert read(make_record(message, *args))["message"].startswith(expected)


def test_a_long_message_and_a_long_traceback_are_cut_and_counted() -> None:
    long = "begin" + "a" * MAX_CHARS + "end"
    record = read(make_record(long, exc_text=long))
    for name in ("message", "exception"):
        assert record[name].startswith("begin")
        assert record[name].endswith("end")
        assert len(record[name]) == MAX_CHARS + 3
    assert record["cut_chars"] == 2 * 8
    assert record["file"] == "snippet_logger.py"


def test_a_message_of_the_greatest_length_is_whole() -> None:
    record = read(make_record("a" * MAX_CHARS))
    assert record["message"] == "a" * MAX_CHARS
    assert "cut_chars" not in record


@given(texts, st.lists(values, max_size=3), st.dictionaries(texts, values, max_size=3))
def test_whatever_is_said_is_one_record_that_forges_nothing(
    message: str, args: list[Any], extra: dict[str, Any]
) -> None:
    named = {f"x{name}": value for name, value in extra.items()}
    record = read(make_record(message, *args, **named))
    assert {name: record[name] for name in STATIC} == STATIC
    assert (record["kind"], record["level"], record["logger"]) == ("log", "INFO", "model")
    assert set(record) <= {field.name for field in fields_of(Kind.LOG)}
    assert len(record.get("extra", {})) <= len(named)
    if not args:
        whole = message.encode("utf-8", "backslashreplace").decode()
        assert record["message"] == whole


def test_the_seeds_line_is_met_exactly() -> None:
    record = make_record("Some info!", msecs=709.0)
    day = logging.Formatter().formatTime(record, "%Y-%m-%d %H:%M:%S")
    assert show(record) == (
        f"{day},709\tINFO snippet_logger.py:13 -- Some info! "
        "component=serve backend=my_backend replica=my_backend#jZlnUI"
    )


@given(
    st.text(st.characters(categories=["L", "N", "P", "Zs"])).filter(str.isprintable),
    st.sampled_from([10, 20, 30, 40, 50]),
    st.floats(0, 2**32),
)
def test_the_text_line_is_what_rays_formatter_writes_with_the_seeds_suffix(
    message: str, level: int, created: float
) -> None:
    record = make_record("%s", message, created=created, msecs=math.modf(created)[0] * 1000)
    record.levelno, record.levelname = level, logging.getLevelName(level)
    assert show(record) == logging.Formatter(RAYS_FORMAT + SUFFIX).format(record)


def test_one_formatter_follows_the_time() -> None:
    lines, plain = TextLines(STATIC), logging.Formatter(RAYS_FORMAT + SUFFIX)
    for created in (1614337565.25, 1614337565.75, 1614337566.0, 1614337565.5):
        record = make_record("m", created=created, msecs=created % 1 * 1000)
        assert lines.format(record) == plain.format(record)


def test_lines_of_controller_and_ingress_have_no_suffix() -> None:
    line = show(make_record("Some info!"), {"component": "ingress", "node": "10.0.0.1", "pid": 1})
    assert line.endswith("INFO snippet_logger.py:13 -- Some info!")


@given(texts)
def test_any_message_is_one_text_line_with_the_suffix_at_its_end(message: str) -> None:
    line = show(make_record(message))
    assert line.splitlines() == [line]
    assert line.endswith(SUFFIX)
    assert not [c for c in line if unicodedata.category(c) == "Cc" and c != "\t"]


def test_a_backend_whose_name_holds_a_newline_makes_no_second_line() -> None:
    line = show(make_record("m"), {**STATIC, "backend": "a\nb", "replica": "a\nb#jZlnUI"})
    assert line.endswith("-- m component=serve backend=a\\nb replica=a\\nb#jZlnUI")


def test_a_traceback_stands_below_its_line_and_looks_like_no_other() -> None:
    try:
        raise ValueError("one\n2021-02-26 11:05:21,709\tINFO a.py:1 -- forged")
    except ValueError as error:
        record = make_record("failed", exc_info=(ValueError, error, error.__traceback__))
    first, *rest = show(record).split("\n")
    assert first.endswith(f"-- failed{SUFFIX}")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
