"""Where a Loki is, and what stays out of messages."""

from __future__ import annotations

import pytest

from observability.loki.address import Address, open_session, parse_address


@pytest.mark.parametrize(
    ("url", "base", "credential"),
    [
        ("http://loki:3100", "http://loki:3100", None),
        ("http://loki:3100/", "http://loki:3100", None),
        ("https://host/logs/", "https://host/logs", None),
        ("http://loki:3100/loki/api/v1/push", "http://loki:3100", None),
        ("http://h:9428/insert/loki/api/v1/push", "http://h:9428/insert", None),
        ("http://[::1]:3100", "http://[::1]:3100", None),
        ("https://me:pass@host", "https://host", ("me", "pass")),
        ("https://a%40b:p%3Aq%2F@host/x", "https://host/x", ("a@b", "p:q/")),
        ("https://12345:@host", "https://host", ("12345", "")),
    ],
)
def test_an_address_is_taken_apart(url: str, base: str, credential: tuple[str, str] | None) -> None:
    address = parse_address(url)
    assert (address.base, address.credential) == (base, credential)
    assert address.url("push") == f"{base}/loki/api/v1/push"


def test_what_stands_behind_a_question_mark_stays() -> None:
    address = parse_address("http://h:9428/insert?_stream_fields=job")
    assert address.url("push") == "http://h:9428/insert/loki/api/v1/push?_stream_fields=job"


@pytest.mark.parametrize(
    "url", ["", "loki:3100", "ftp://loki", "http://", "http://loki:port", "http://loki:0", "//loki"]
)
def test_what_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match=r"no address of a Loki\. Expected http://HOST:3100"):
        parse_address(url)


@pytest.mark.parametrize("url", ["ftp://me:secret@loki", "me:secret@loki", "http://me:secret@l:x"])
def test_a_password_is_in_no_message(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_address(url)
    assert "secret" not in str(raised.value)


def test_a_session_carries_the_tenant_and_the_credential() -> None:
    with open_session(Address("http://h", credential=("a", "b")), "team-a") as session:
        assert session.auth == ("a", "b")
        assert session.headers["X-Scope-OrgID"] == "team-a"
    with open_session(Address("http://h"), None) as session:
        assert "X-Scope-OrgID" not in session.headers
