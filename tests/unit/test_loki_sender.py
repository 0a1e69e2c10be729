"""The thread that sends: batches, attempts, and how it ends. Without a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from observability.loki import sender as module
from observability.loki.backlog import Backlog
from observability.loki.sender import Answer, BatchLimits, Outcome, Sender, is_sender

LONG_S = 60.0
WAIT_S = 20.0
LATER = Answer(Outcome.LATER, "busy")
REFUSED = Answer(Outcome.REFUSED, "bad labels")


class Loki:
    """Keeps what comes, and answers what it is told to; then that it has arrived."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answers: list[Answer | Exception] = []
        self.usual = Answer(Outcome.SENT)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.is_closed = threading.Event()
        self.was_sender: list[bool] = []

    def send(self, body: bytes) -> Answer:
        self.entered.set()
        self.was_sender.append(is_sender())
        self.gate.wait(WAIT_S)
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else self.usual
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def loki() -> Loki:
    return Loki()


Start = Callable[..., tuple[Backlog, Sender]]


@pytest.fixture
def start(loki: Loki) -> Iterator[Start]:
    senders: list[Sender] = []

    def make(
        lines: int = 10, delay_s: float = LONG_S, encode: Callable[..., bytes] = b",".join
    ) -> tuple[Backlog, Sender]:
        backlog = Backlog(100, 1 << 30)
        made = Sender(
            backlog, BatchLimits(lines, 1 << 20, delay_s), encode, loki.send, loki.is_closed.set
        )
        made.start()
        senders.append(made)
        return backlog, made

    yield make
    loki.gate.set()
    for sender in senders:
        sender.stop(WAIT_S)


def put(backlog: Backlog, *lines: bytes) -> None:
    for line in lines:
        assert backlog.put(line)


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_waits_is_sent_in_batches_when_it_is_woken(loki: Loki, start: Start) -> None:
    backlog, sender = start(lines=2)
    put(backlog, b"a", b"b", b"c")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    assert loki.bodies == [b"a,b", b"c"]
    assert backlog.sent == 3
    assert all(loki.was_sender)
    assert not is_sender()


def test_a_batch_that_does_not_fill_is_sent_after_its_delay(loki: Loki, start: Start) -> None:
    backlog, _ = start(delay_s=0.01)
    put(backlog, b"a")
    backlog.wait_settled(WAIT_S)
    assert loki.bodies == [b"a"]


@pytest.mark.parametrize("trouble", [LATER, ConnectionError("away")], ids=str)
def test_what_may_be_taken_later_is_sent_again(
    loki: Loki, start: Start, trouble: Answer | Exception
) -> None:
    backlog, sender = start()
    loki.answers = [trouble] * 3
    put(backlog, b"a")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    assert loki.bodies == [b"a"] * 4
    assert (backlog.sent, backlog.dropped) == (1, {})


def test_the_waits_between_attempts_double_up_to_a_limit(
    loki: Loki, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.004)
    waits: list[float] = []
    monkeypatch.setattr(Sender, "_pause", lambda self, wait_s: waits.append(wait_s))
    loki.answers = [LATER] * 5
    backlog, sender = start()
    put(backlog, b"a")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    expected = [0.001, 0.002, 0.004, 0.004, 0.004]
    assert [0.75 * e <= w <= 1.25 * e for e, w in zip(expected, waits, strict=True)] == [True] * 5


def test_what_is_refused_is_dropped_and_the_next_batch_is_sent(loki: Loki, start: Start) -> None:
    backlog, sender = start(lines=2)
    loki.answers = [REFUSED]
    put(backlog, b"a", b"b", b"c")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    assert (backlog.sent, backlog.dropped) == (1, {"refused": 2})


def test_what_can_not_be_encoded_is_dropped_and_the_next_batch_is_sent(
    loki: Loki, start: Start
) -> None:
    def encode(lines: list[bytes]) -> bytes:
        if lines == [b"odd"]:
            raise ValueError("odd")
        return b",".join(lines)

    backlog, sender = start(lines=1, encode=encode)
    put(backlog, b"odd", b"even")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    assert (backlog.sent, backlog.dropped) == (1, {"failed": 1})


def test_trouble_is_told_once_until_it_is_over(
    loki: Loki, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    backlog, sender = start(lines=1)
    loki.answers = [LATER, LATER, Answer(Outcome.SENT), REFUSED, REFUSED]
    put(backlog, b"a", b"b", b"c")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    told = capsys.readouterr().err.splitlines()
    assert [("busy" in text, "bad labels" in text) for text in told] == [
        *((True, False), (False, True)),
    ]


def test_without_a_stderr_it_goes_on(
    loki: Loki, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    backlog, sender = start()
    loki.answers = [LATER]
    put(backlog, b"a")
    sender.wake()
    backlog.wait_settled(WAIT_S)
    assert backlog.sent == 1


def test_at_the_end_what_waits_is_sent_and_the_connection_closed(loki: Loki, start: Start) -> None:
    backlog, sender = start()
    put(backlog, b"a", b"b")
    sender.stop(WAIT_S)
    assert loki.bodies == [b"a,b"]
    assert loki.is_closed.is_set()


def test_the_end_has_a_limit_when_nothing_answers(loki: Loki, start: Start) -> None:
    backlog, sender = start()
    loki.gate.clear()
    put(backlog, b"a")
    sender.wake()
    assert loki.entered.wait(WAIT_S)
    sender.stop(0.05)  # it returns: the gate opens only afterwards
    assert not loki.is_closed.is_set()
    backlog.close()
    loki.gate.set()
    wait_for(loki.is_closed.is_set)
    assert (backlog.sent, backlog.dropped) == (0, {"closed": 1})


def test_the_end_has_a_limit_when_all_is_to_be_sent_later(loki: Loki, start: Start) -> None:
    backlog, sender = start()
    loki.usual = LATER
    put(backlog, b"a")
    sender.stop(0.05)
    wait_for(loki.is_closed.is_set)
    assert len(backlog) == 1
    assert len(loki.bodies) < 100  # it did not try without a pause
