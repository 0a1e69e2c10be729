"""One push to a Loki: makes the request's body, sends it, and says what came of it."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import requests

from observability.loki.address import Address, open_session
from observability.loki.entries import encode_push
from observability.loki.sender import Answer, Outcome

COMPRESSION = 5
"""Of gzip: records shrink to a tenth; more costs more than it saves."""

MESSAGE_CHARS = 300
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


class Delivery:
    """Sends batches over one connection. Used by one thread.

    Args:
        address: of the Loki.
        labels: of all records.
        tenant: for a Loki of several tenants.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(
        self, address: Address, labels: Mapping[str, str], tenant: str | None, timeout_s: float
    ) -> None:
        self._address = address
        self._url = address.url("push")
        self._labels = dict(labels)
        self._tenant = tenant
        self._timeout_s = timeout_s
        self._session: requests.Session | None = None

    def encode(self, lines: list[bytes]) -> bytes:
        """The body of a request with these lines."""
        return gzip.compress(encode_push(lines, self._labels), COMPRESSION)

    def send(self, body: bytes) -> Answer:
        """Send it. What `requests` raises: it may have arrived or not."""
        if self._session is None:
            self._session = open_session(self._address, self._tenant)
        answer = self._session.post(
            self._url,
            data=body,
            headers=HEADERS,
            timeout=self._timeout_s,
            allow_redirects=False,  # a POST that is redirected becomes a GET
        )
        status = answer.status_code
        if 200 <= status < 300:
            return Answer(Outcome.SENT)
        said = " ".join(answer.text.split())[:MESSAGE_CHARS] or answer.reason
        reason = f"{self._address.base} answers {status}: {said}"
        is_temporary = status in (408, 429) or status >= 500
        return Answer(Outcome.LATER if is_temporary else Outcome.REFUSED, reason)

    def close(self) -> None:
        """Let go of the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None
