"""Where a Loki is: its address, the name and password in it, and what a request carries."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import requests

API = "/loki/api/v1/"
TENANT_HEADER = "X-Scope-OrgID"
READABLE = ("http", "https")


@dataclass(frozen=True, slots=True)
class Address:
    """A Loki, or what has its API.

    Attributes:
        base: what stands before `/loki/api/v1/`, without name and password.
        parameters: what stands behind a question mark, or "".
        credential: name and password, or None.
    """

    base: str
    parameters: str = ""
    credential: tuple[str, str] | None = None

    def url(self, what: str) -> str:
        """The address of a part of the API: `push`, `query_range`."""
        return f"{self.base}{API}{what}{'?' if self.parameters else ''}{self.parameters}"


def parse_address(url: str) -> Address:
    """The address that somebody gave, with the API's own path at its end or without.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    try:
        is_readable = parts.scheme in READABLE and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_readable = False
    given, at, host = parts.netloc.rpartition("@")
    if not is_readable:
        shown = url  # without name and password
        if "@" in url:
            shown = f"{parts.scheme}://…@{url.rpartition('@')[2]}"
        raise ValueError(
            f"{shown!r} is no address of a Loki. Expected http://HOST:3100, with "
            "NAME:PASSWORD@ before the host if it asks for them."
        )
    name, _, password = given.partition(":")
    path = parts.path.rstrip("/").partition(API.rstrip("/"))[0].rstrip("/")
    return Address(
        f"{parts.scheme}://{host}{path}",
        parts.query,
        (unquote(name), unquote(password)) if at else None,
    )


def open_session(address: Address, tenant: str | None) -> requests.Session:
    """What sends the requests.

    Args:
        address: of the Loki.
        tenant: whose records, for a Loki of several tenants (`X-Scope-OrgID`).
    """
    session = requests.Session()
    session.auth = address.credential
    session.headers["User-Agent"] = "tagtrail"
    if tenant:
        session.headers[TENANT_HEADER] = tenant
    return session
