"""A Loki that is asked over HTTP.

https://grafana.com/docs/loki/latest/reference/loki-http-api/#query-logs-within-a-range-of-time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import requests

from observability.loki.address import TENANT_HEADER, open_session, parse_address
from observability.loki.pages import Entry, PageFullError, Pages
from observability.trail.source import SourceError

PAGE_ENTRIES = 1_000
"""Of one answer. Loki gives 5,000 at most, but an answer over 4 MiB fails in it by default."""

TIMEOUT_S = 30.0
"""Longest wait for a connection, and for the next byte of an answer."""

RETRY_WAITS_S = (0.5, 1.0, 2.0)
"""Before Loki is asked again when it has too much to do or fails: 429 and 5xx."""

MESSAGE_CHARS = 500
HEADERS = {"X-Loki-Response-Encoding-Flags": "categorize-labels"}
"""Metadata apart from the labels: else nearly every entry comes as a stream of its own."""


class LokiError(SourceError):
    """It can't be reached, or refuses; the message says what to do."""


class _Stream(msgspec.Struct):
    values: list[list[Any]]


class _Data(msgspec.Struct):
    result: list[_Stream]


class _Answer(msgspec.Struct):
    data: _Data


_decode = msgspec.json.Decoder(_Answer).decode


class LokiClient:
    """One Loki.

    Args:
        url: its address, with `NAME:PASSWORD@` before the host if it asks for them.
        tenant: whose records, for a Loki of several tenants.
        page_entries: most entries of one answer.
        wait: how to wait so many seconds.

    Raises:
        LokiError: `url` is no address.
    """

    def __init__(
        self,
        url: str,
        tenant: str | None = None,
        page_entries: int = PAGE_ENTRIES,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            address = parse_address(url)
        except ValueError as error:
            raise LokiError(str(error)) from None
        self.base = address.base
        self._url = address.url("query_range")
        self._address = address
        self._tenant = tenant
        self.page_entries = page_entries
        self._wait = wait

    def entries(
        self,
        logql: str,
        start_ns: int,
        end_ns: int,
        *,
        is_backward: bool = False,
        page_entries: int | None = None,
    ) -> Iterator[Entry]:
        """The entries of a log query in the order of time, each once; asked for page by page.

        Args:
            logql: the query.
            start_ns: earliest time.
            end_ns: the first time that is not asked for any more.
            is_backward: the latest ones first.
            page_entries: most entries of one answer, if not the client's.

        Raises:
            LokiError: it can't be reached or refuses.
        """
        pages = Pages(start_ns, end_ns, page_entries or self.page_entries, is_backward)
        with open_session(self._address, self._tenant) as session:
            session.headers.update(HEADERS)
            while not pages.is_over:
                answer = self._ask(session, logql, pages)
                try:
                    fresh = pages.take(self._read(answer))
                except PageFullError as error:
                    raise LokiError(
                        f"Loki at {self.base} can't be read to the end: {error}, and it tells no "
                        "more than that of one moment. Ask for less, with --backend or --grep, say."
                    ) from None
                yield from fresh

    def _ask(self, session: requests.Session, logql: str, pages: Pages) -> requests.Response:
        parameters = {
            "query": logql,
            "start": str(pages.start_ns),
            "end": str(pages.end_ns),
            "limit": str(pages.size),
            "direction": "backward" if pages.is_backward else "forward",
        }
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                answer = session.get(self._url, params=parameters, timeout=TIMEOUT_S)
            except requests.RequestException as error:
                raise LokiError(
                    f"Loki can't be reached at {self.base} ({type(error).__name__}). Does it run? "
                    "--loki is its address, with the path if it is served below one."
                ) from None
            if wait_s is None or not (answer.status_code == 429 or answer.status_code >= 500):
                break
            self._wait(wait_s)
        if answer.status_code != 200:
            raise LokiError(self._explain(answer))
        return answer

    def _read(self, answer: requests.Response) -> Iterator[Entry]:
        try:
            for stream in _decode(answer.content).data.result:
                for value in stream.values:
                    yield int(value[0]), str(value[1])
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, IndexError):
            raise LokiError(
                f"{self.base} does not answer as Loki does. --loki is the address of a Loki, "
                "http://HOST:3100, not that of a Grafana or an agent."
            ) from None

    def _explain(self, answer: requests.Response) -> str:
        """Loki's own words, which come as plain text, and what to do next."""
        status = answer.status_code
        said = " ".join(answer.text.split())[:MESSAGE_CHARS] or answer.reason
        next_step = "Its log says why."
        if status in (401, 403):
            next_step = (
                "Give name and password in the address, http://NAME:PASSWORD@HOST:3100, or the "
                f"tenant with --loki-tenant ({TENANT_HEADER})."
            )
        elif status == 404:
            next_step = "--loki is the address of a Loki, with the path if it is served below one."
        elif status in (400, 422):
            next_step = "Ask for a shorter time, with --since and --until, or for less."
        elif status == 429 or status >= 500:
            next_step = "It was asked several times. Ask for less, or try again later."
        return f"Loki at {self.base} refuses ({status}): {said} {next_step}"
