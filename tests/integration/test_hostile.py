"""A thousand requests that try to: every line is well-formed, none is forged, none is lost."""

from __future__ import annotations

import json
import logging
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serve
from tests.integration.conftest import Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.series import page, total

REQUESTS = 1_000
FORGED = '"replica":"forged#xxxxxx","request_id":"forged","kind":"access"'
BACKEND = "hostile"


class Nasty:
    """Can't be told."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def make_odd(kind: str, value: Any) -> Any:
    """A value that JSON can't hold, or only just."""
    if kind == "cycle":
        cycle: list[Any] = [value]
        cycle.append(cycle)
        return cycle
    odd = {
        "nasty": Nasty(),
        "set": {1, 2},
        "bytes": b"\xff\n",
        "nan": float("nan"),
        "huge": 10**400,
    }
    return odd.get(kind, value)


def read_body(body: bytes) -> dict[str, Any]:
    """What to say; nothing when a newline in a header has cut the body off."""
    try:
        told: dict[str, Any] = json.loads(body)
    except ValueError:
        return {}
    return told


async def repeat(request: Any) -> dict[str, str]:
    """Says what it is told to, in every way there is; answers with what that was."""
    told = read_body(await request.body())
    text, odd = told.get("text", ""), make_odd(told.get("kind", ""), told.get("value"))
    logger = logging.getLogger("repeat")
    logger.info("said %s", text)
    logger.warning(text, extra={"thing": odd, "replica": "forged#extra"})
    logging.getLogger(f"named.{text}").info("by name")
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")
    return {"said": text}


PER_ANSWER = 4

lines = st.text(max_size=60) | st.sampled_from(
    [
        f"\n{{{FORGED}}}\n",
        f'", {FORGED}, "x":"',
        "\0\r\n\x1b[31m\u2028\u2029\ufeff",
        "\ud800 alone",
        "%s %d %(x)s {0}",
        "\\",
        "x" * 3000,
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | lines,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(lines, inner, max_size=3),
    max_leaves=5,
)
raw = st.binary(max_size=40) | st.sampled_from(
    [b"\n" + FORGED.encode(), b"a\tb\tc", b"%0a%00%09", b"\xff\xfe", b"..%2f..", b"a b"]
)
ids = st.text("abcXYZ019_.:-", min_size=1, max_size=130).map(str.encode) | raw


@dataclass(frozen=True)
class Hostile:
    """One request.

    Attributes:
        path: after `/hostile/`, and the query, as bytes.
        header: value of some header.
        request_id: value of X-Request-ID; None: no such header.
        body: what the backend is to say.
    """

    path: bytes
    header: bytes
    request_id: bytes | None
    body: dict[str, Any]

    def encode(self) -> bytes:
        """As it goes over the wire."""
        body = json.dumps(self.body).encode()
        head = [
            b"POST /hostile/%s HTTP/1.1" % self.path,
            b"Host: test",
            b"X-Junk: %s" % self.header,
            b"Content-Length: %d" % len(body),
            b"Connection: close",
        ]
        if self.request_id is not None:
            head.append(b"X-Request-ID: %s" % self.request_id)
        return b"\r\n".join([*head, b"", body])


requests = st.builds(
    Hostile,
    path=raw.map(lambda path: path.replace(b"\r", b""))
    | st.sampled_from([b"well", b"well/on?q=%00"]),
    header=st.just(b"plain") | raw,
    request_id=st.none() | ids,
    body=st.fixed_dictionaries(
        {
            "text": lines,
            "value": values,
            "kind": st.sampled_from(["", "cycle", "nasty", "set", "bytes", "nan", "huge"]),
        }
    ),
)


@dataclass
class Seen:
    """What the clients saw, and what must be found.

    Attributes:
        texts: by request id, what a replica was told to say and answered.
        replicas: tags of the replicas that answered.
        others: status of every other answer.
    """

    texts: list[tuple[str, str]] = field(default_factory=list)
    replicas: set[str] = field(default_factory=set)
    others: list[int] = field(default_factory=list)


def send(port: int, request: Hostile, seen: Seen) -> None:
    """Send one request, read the whole answer."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.settimeout(60)
        connection.sendall(request.encode())
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass  # refused before all of it was read
    assert answer, f"no answer to {request.encode()!r}"
    while answer:  # a newline in a header may have made two requests of one
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (f.split(": ", 1) for f in fields)}
        body, answer = cut(rest, int(headers["content-length"]))
        status = int(first.split()[1])
        if "x-serve-replica" in headers:
            assert status == 200, head
            seen.texts.append((headers["x-request-id"], json.loads(body)["said"]))
            seen.replicas.add(headers["x-serve-replica"])
        else:
            seen.others.append(status)


def cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The first bytes, and the others."""
    return data[:size], data[size:]


def test_hostile_requests_leave_well_formed_records_none_forged_none_lost(
    instance: Instance,
) -> None:
    serve.create_backend(BACKEND, repeat, config={"num_replicas": 2})
    serve.create_endpoint(BACKEND, backend=BACKEND, route="/hostile/{rest:path}", methods=["POST"])
    seen = Seen()
    # The session's segments hold those of other modules too.
    of_earlier_tests = count_of_ingress() + count_left_out()

    @settings(
        max_examples=REQUESTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def ask(request: Hostile) -> None:
        send(instance.port, request, seen)

    ask()
    assert len(seen.texts) > REQUESTS / 4  # the others did not get past HAProxy
    assert 400 in seen.others

    own = read_records(lambda r: r.get("backend") == BACKEND and r["component"] == "serve")
    check_none_forged(own, seen)
    check_none_lost(own, seen)
    expected = of_earlier_tests + len(seen.others)
    wait_until(lambda: count_of_ingress() + count_left_out() >= expected)
    assert count_of_ingress() + count_left_out() == expected


def count_of_ingress() -> int:
    return len(read_records(lambda record: record["kind"] == "access", name="ingress"))


def count_left_out() -> int:
    """Those that no endpoint took and that came too fast for a record each."""
    return int(total(page(), "ray_serve_records_left_out_total"))


def check_none_forged(own: list[Record], seen: Seen) -> None:
    """Every record of the backend is of its replicas, and of a request that was answered."""
    known = {request_id for request_id, _ in seen.texts}
    assert {record["replica"] for record in own} == seen.replicas
    of_requests = [record for record in own if record.get("endpoint") == BACKEND]
    assert {record["request_id"] for record in of_requests} == known
    everything = read_records(lambda record: record.get("backend") not in (None, BACKEND))
    assert not [r for r in everything if "forged" in f"{r.get('replica')}{r.get('request_id')}"]


def check_none_lost(own: list[Record], seen: Seen) -> None:
    """One access record and all lines for each answer, with what was said in them."""
    access = Counter(r["request_id"] for r in own if r["kind"] == "access")
    assert access == Counter(request_id for request_id, _ in seen.texts)
    told = [r for r in own if r["kind"] == "log" and "request_id" in r]
    counts = Counter(r["request_id"] for r in told)
    assert counts == {request_id: PER_ANSWER * n for request_id, n in access.items()}
    said = Counter((r["request_id"], r["message"]) for r in told if r["logger"] == "repeat")
    for request_id, text in seen.texts:
        held = text.encode(errors="backslashreplace").decode()  # UTF-8 can't hold half a pair
        assert said[(request_id, f"said {held}")] >= 1, (request_id, text)
        assert said[(request_id, held)] >= 1, (request_id, text)
    extras = [r["extra"] for r in told if "extra" in r]
    assert len(extras) == len(seen.texts)
    assert all("thing" in extra for extra in extras)
