"""A replica is killed under load: of what was answered, every record is there, once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records

REQUESTS = 20_000
CONNECTIONS = 32
ANSWER_S = 30
LINES = ("first", "second")


async def tell_twice(request: Any) -> int:
    logger = logging.getLogger("told")
    for line in LINES:
        logger.info(line)
    return os.getpid()


@dataclass
class Outcome:
    """What clients saw.

    Attributes:
        answered: replica tag by request id, of answers with status 200.
        refused: status by request id, of other whole answers.
        cut: ids of requests whose connection ended without a whole answer.
        pids: process ids by replica tag.
    """

    answered: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, request_id: str
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection that stays open: status, headers, body."""
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: test\r\nX-Request-ID: {request_id}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in fields}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def keep_asking(port: int, path: str, ids: asyncio.Queue[str], outcome: Outcome) -> None:
    """Ask on one connection at a time until the ids are used up.

    The ingress takes a new configuration when the replica is replaced: the process before
    closes each connection with its next answer, and says so in it.
    """
    while not ids.empty():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while not ids.empty():
                request_id = ids.get_nowait()
                try:
                    status, headers, body = await asyncio.wait_for(
                        ask(reader, writer, path, request_id), ANSWER_S
                    )
                except (asyncio.IncompleteReadError, ConnectionError):
                    outcome.cut.append(request_id)
                    break
                assert headers["x-request-id"] == request_id
                if status == 200:
                    replica = headers["x-serve-replica"]
                    outcome.answered[request_id] = replica
                    outcome.pids[replica] = int(body)
                else:
                    outcome.refused[request_id] = status
                if headers.get("connection") == "close":
                    break
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def ask_and_kill(port: int, path: str) -> tuple[Outcome, str]:
    """All requests; a third of the way a replica is killed. What came of it, and whose it was."""
    ids: asyncio.Queue[str] = asyncio.Queue()
    for number in range(REQUESTS):
        ids.put_nowait(f"survivor-{number}")
    outcome = Outcome()
    clients = [
        asyncio.create_task(keep_asking(port, path, ids, outcome)) for _ in range(CONNECTIONS)
    ]
    while len(outcome.answered) < REQUESTS // 3 and not all(client.done() for client in clients):
        await asyncio.sleep(0.001)
    victim = next(iter(outcome.pids))
    os.kill(outcome.pids[victim], signal.SIGKILL)
    await asyncio.gather(*clients)
    return outcome, victim


def test_what_was_answered_has_all_its_records_though_a_replica_is_killed(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(tell_twice, num_replicas=3)

    outcome, victim = asyncio.run(ask_and_kill(instance.port, f"/{name}"))

    assert len(outcome.answered) + len(outcome.refused) + len(outcome.cut) == REQUESTS
    assert len(outcome.answered) >= REQUESTS - 2 * CONNECTIONS
    assert victim in outcome.answered.values()

    def records() -> list[Record]:
        return read_records(
            lambda record: str(record.get("request_id", "")).startswith("survivor-"),
            may_end_half=victim,
        )

    found = records()
    access: dict[tuple[str, str], int] = Counter()
    told: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in found:
        key = (record["request_id"], record.get("replica", ""))
        if record["kind"] == "access":
            access[key] += 1
        elif record["logger"] == "told":
            told[key].append(record["message"])
    wrong = {
        key: (access[key], told[key])
        for key in outcome.answered.items()
        if access[key] != 1 or told[key] != list(LINES)
    }
    assert wrong == {}

    def without_record() -> set[str]:
        ids = {r["request_id"] for r in records() if r["kind"] == "access" and r.get("error")}
        return {*outcome.refused, *outcome.cut} - ids

    wait_until(lambda: not without_record())  # the ingress hears of them a moment later


def test_a_replica_that_is_killed_right_after_its_answer_has_told_of_it(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(tell_twice)
    for number in range(5):
        request_id = f"last-words-{number}"
        answer = wait_until(
            lambda request_id=request_id: answered(instance, f"/{name}", request_id)
        )
        os.kill(answer.json(), signal.SIGKILL)

        mine = read_records(
            lambda record, request_id=request_id: record.get("request_id") == request_id
        )
        from_replica = [
            record
            for record in mine
            if record.get("replica") == answer.headers["X-Serve-Replica"]
            # The process before this one may have had the request, and died before it began.
            and "ended before it began" not in record.get("message", "")
        ]
        assert [r["kind"] for r in from_replica] == ["log", "log", "access"]


def answered(instance: Instance, path: str, request_id: str) -> httpx.Response | None:
    try:
        response = instance.http.get(path, headers={"X-Request-ID": request_id})
    except httpx.RemoteProtocolError:
        # While a killed process ends, its port still accepts: HAProxy's tries are used up within
        # milliseconds, and then it closes without a word (docs/request.md, "What is tried again").
        return None
    return response if response.status_code == 200 else None
