"""print() and sys.stderr as records."""

from __future__ import annotations

import io
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.streams import MAX_LINE_CHARS, TeeStream, TellLine


class Stream:
    """A tee on a stream in memory, and what it told."""

    def __init__(self) -> None:
        self.original = io.StringIO()
        self.told: list[str] = []
        self.tee = TeeStream(self.original, self.told.append)


class Keeper(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_a_printed_line_goes_on_and_is_told_without_its_newline() -> None:
    stream = Stream()
    print("count:", 5, file=stream.tee)
    assert stream.original.getvalue() == "count: 5\n"
    assert stream.told == ["count: 5"]


def test_a_line_is_told_when_it_ends() -> None:
    stream = Stream()
    print("one", end=" ", file=stream.tee)
    assert stream.told == []
    print("two\nthree", end="", file=stream.tee)
    assert stream.told == ["one two"]
    stream.tee.tell_rest()
    assert stream.told == ["one two", "three"]
    assert stream.original.getvalue() == "one two\nthree"


def test_blank_lines_are_not_told() -> None:
    stream = Stream()
    stream.tee.writelines(["\n", "  \n", "a\n", "\n"])
    stream.tee.tell_rest()
    assert stream.told == ["a"]
    assert stream.original.getvalue() == "\n  \na\n\n"


def test_lines_of_two_threads_do_not_mix() -> None:
    stream, is_begun, is_other_done = Stream(), threading.Event(), threading.Event()

    def write() -> None:
        stream.tee.write("slow ")
        is_begun.set()
        is_other_done.wait(20)
        stream.tee.write("line\n")

    thread = threading.Thread(target=write)
    thread.start()
    assert is_begun.wait(20)
    stream.tee.write("quick line\n")
    is_other_done.set()
    thread.join()
    assert stream.told == ["quick line", "slow line"]


def test_what_is_printed_while_a_line_is_told_is_only_written() -> None:
    original, told = io.StringIO(), []

    def tell(line: str) -> None:
        told.append(line)
        tee.write("from the handler\n")

    tee = TeeStream(original, tell)
    tee.write("a\nb\n")
    assert told == ["a", "b"]
    assert original.getvalue() == "a\nb\nfrom the handler\nfrom the handler\n"


def test_a_line_that_does_not_end_is_told_in_parts() -> None:
    stream = Stream()
    text = "".join(str(number) for number in range(100_000))
    stream.tee.write(text)
    assert [len(part) for part in stream.told] == [MAX_LINE_CHARS] * (len(text) // MAX_LINE_CHARS)
    stream.tee.write("\n")
    assert "".join(stream.told) == text


def test_a_progress_bar_that_only_returns_its_carriage_takes_no_memory_without_end() -> None:
    stream = Stream()
    for _ in range(3):
        stream.tee.write("\r" + "x" * (MAX_LINE_CHARS // 2))
    assert sum(map(len, stream.told)) == MAX_LINE_CHARS


def test_a_stream_that_fails_tells_the_writer() -> None:
    stream = Stream()
    stream.original.close()
    with pytest.raises(ValueError, match="closed file"):
        stream.tee.write("a\n")
    with pytest.raises(TypeError):
        Stream().tee.write(5)  # type: ignore[arg-type]


def test_everything_else_is_the_originals(tmp_path_factory: pytest.TempPathFactory) -> None:
    with open(tmp_path_factory.mktemp("stream") / "out", "w", encoding="utf-8") as file:
        tee = TeeStream(file, lambda line: None)
        assert tee.fileno() == file.fileno()
        assert (tee.encoding, tee.isatty(), tee.name) == ("utf-8", False, file.name)
        with tee as entered:
            assert entered.write("abc\n") == 4
        assert not file.closed


@given(st.lists(st.text()))
def test_no_line_is_lost_however_it_is_written(texts: list[str]) -> None:
    stream = Stream()
    for text in texts:
        stream.tee.write(text)
    stream.tee.tell_rest()
    whole = "".join(texts)
    assert stream.original.getvalue() == io.StringIO(whole).getvalue()
    assert stream.told == [line for line in whole.split("\n") if line.strip()]


def test_a_told_line_is_a_record_that_is_never_formatted() -> None:
    keeper = Keeper()
    TellLine(keeper, "stdout", logging.INFO)("100% of %s")
    (record,) = keeper.records
    assert (record.name, record.levelname) == ("stdout", "INFO")
    assert record.getMessage() == "100% of %s"


def test_lines_below_the_handlers_level_are_not_told() -> None:
    keeper = Keeper()
    keeper.setLevel(logging.WARNING)
    TellLine(keeper, "stdout", logging.INFO)("a")
    TellLine(keeper, "stderr", logging.WARNING)("b")
    assert [record.getMessage() for record in keeper.records] == ["b"]
