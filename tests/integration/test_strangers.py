"""What strangers try: to speak for the ingress, to call what is not offered, to fill the log."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

import serve
from serve.ids import make_request_id
from serve.records import ReplicaAddress
from serve.session import session_folder
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import haproxies, run_folders, wait_until
from tests.integration.records import Record, read_records
from tests.integration.test_ingress_records import record_of

SECRET_HEADER = "x-serve-token"


async def tell(request: Any) -> dict[str, Any]:
    """All that a handler can see of who sent the request."""
    await request.body()
    context = serve.get_request_context()
    return {
        "headers": sorted(name for name, _ in request.headers.items()),
        "values": [value for _, value in request.headers.items()],
        "client": request.client.host,
        "id": context.request_id,
        "endpoint": context.endpoint,
        "route": context.route,
    }


async def read_all(request: Any) -> int:
    return len(await request.body())


def exchange(port: int, *parts: bytes, host: str = "127.0.0.1") -> bytes:
    """Send the parts over one connection; all that comes back until it is closed."""
    with socket.create_connection((host, port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                answer += chunk
    return answer


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


def address_of(name: str) -> ReplicaAddress:
    status = serve.connect().status()
    (view,) = [r for r in status.observed.replicas.values() if r.backend_tag == name]
    assert view.address is not None
    return view.address


def records_of(request_id: str) -> list[Record]:
    return read_records(lambda record: record.get("request_id") == request_id)


def read_listening() -> dict[str, tuple[str, int]]:
    """(address, port) of every TCP socket that listens on IPv4 on this machine, by its inode."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        host, port = words[1].split(":")
        if words[3] == "0A":
            found[words[9]] = (socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16))
    return found


def sockets_of(pid: int, listening: dict[str, tuple[str, int]]) -> list[tuple[str, int]]:
    """Where a process listens."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [listening[link[8:-1]] for link in links if link[8:-1] in listening]


UPGRADE = (
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(b'x' * 16).decode()}",
)

# Headers end where the head ends.

FORGED = {
    "X-Serve-Endpoint": "forged",
    "X-Serve-Route": "/forged/{x}",
    "X-Serve-Mount": "forged",
    "X-Serve-Shadow": "hidden",
    "X-Serve-Start": "forged",
    "X-Serve-Call-Method": "reconfigure",
    "X-Serve-Token": "0" * 64,
    "X-Request-ID": "x" * 3000,
    "X-Forwarded-For": "6.6.6.6",
    "Authorization": "Bearer forged",
    "Traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    "Expect": "100-continue",
    "Upgrade": "websocket",
    "Connection": "upgrade",
    "Host": "forged",
}


@pytest.fixture(scope="module", autouse=True)
def backends(shared_instance: Instance) -> None:
    """Backends `plain`, `asgi`, `tell` and `offers`, each on a route of its name."""
    targets = {"plain": read_all, "asgi": application, "tell": tell, "offers": Offers}
    offered = {"user_config": "first", "exposed_methods": ["named"]}
    for name, target in targets.items():
        config = offered if name == "offers" else {}
        serve.create_backend(name, target, ray_actor_options={"num_cpus": 0}, config=config)
        route = "/plain/{way}" if name == "plain" else f"/{name}"
        serve.create_endpoint(name, backend=name, route=route, methods=["GET", "POST"])


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("is_split", [False, True])
def test_a_trailer_is_no_header(shared_instance: Instance, name: str, is_split: bool) -> None:
    request_id = make_request_id()
    start = head("/tell", "Transfer-Encoding: chunked", f"X-Request-ID: {request_id}")
    rest = f"1\r\nx\r\n0\r\n{name}: {FORGED[name]}\r\n\r\n".encode()

    answer = exchange(shared_instance.port, *([start, rest] if is_split else [start + rest]))

    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert FORGED[name].encode() not in answer
    assert f'"id": "{request_id}"'.encode() in answer
    assert b'"endpoint": "tell"' in answer
    assert b'"client": "127.0.0.1"' in answer
    assert len(records_of(request_id)) == 1


# Only what is offered.


class Offers:
    """Offers one method by mark, one by name, and has others."""

    def __init__(self) -> None:
        self.config = "first"

    def reconfigure(self, config: Any) -> None:
        self.config = config

    def check_health(self) -> str:
        return "healthy"

    def __call__(self, request: Any) -> Any:
        return self.config

    @serve.expose
    def marked(self, request: Any) -> str:
        return "marked"

    def named(self, request: Any) -> str:
        return "named"

    def other(self, request: Any) -> str:
        return "other"


@pytest.mark.parametrize("name", ["__call__", "marked", "named"])
def test_a_request_may_name_what_is_offered(shared_instance: Instance, name: str) -> None:
    answer = shared_instance.http.get("/offers", headers={"X-Serve-Call-Method": name})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "reconfigure",
        "check_health",
        "other",
        "absent",
        "__init__",
        "__class__",
        "_private",
        "",
        ".",
    ],
)
def test_a_request_may_name_nothing_else(shared_instance: Instance, name: str) -> None:
    request_id = make_request_id()

    answer = shared_instance.http.get(
        "/offers", headers={"X-Serve-Call-Method": name, "X-Request-ID": request_id}
    )

    assert answer.status_code == 404
    assert "'__call__', 'marked', 'named'" in answer.text
    record = record_of(request_id)
    assert (record["level"], record["error"]) == ("INFO", "method_not_exposed")
    assert len(records_of(request_id)) == 1
    assert shared_instance.http.get("/offers").text == "first"


def test_what_is_offered_can_be_changed_while_it_runs(shared_instance: Instance) -> None:
    serve.update_backend_config("offers", {"exposed_methods": ["other"]})
    assert shared_instance.http.get("/offers", headers={"X-Serve-Call-Method": "other"}).is_success
    named = shared_instance.http.get("/offers", headers={"X-Serve-Call-Method": "named"})
    assert named.status_code == 404
    serve.update_backend_config("offers", {"exposed_methods": ["named"]})


def test_a_handle_may_call_what_is_not_offered(shared_instance: Instance) -> None:
    assert serve.get_handle("offers").options(method_name="other").call().result(60) == "other"


def test_a_method_that_is_not_there_cannot_be_offered(shared_instance: Instance) -> None:
    with pytest.raises(serve.BackendStartError, match=r"exposed_methods of .* names 'absent'"):
        serve.create_backend("none", Offers, config={"exposed_methods": ["absent"]})
    with pytest.raises(ValueError, match="Tagtrail itself calls"):
        serve.create_backend("none", Offers, config={"exposed_methods": ["reconfigure"]})


# A replica's port is the ingress's alone.


def test_a_replica_answers_nobody_who_has_no_token(shared_instance: Instance) -> None:
    address = address_of("tell")
    url = f"http://{address.host}:{address.http_port}/tell"
    request_id = make_request_id()

    for headers in ({}, {"X-Serve-Token": "0" * 64}, {"X-Serve-Token": ""}):
        answer = httpx.get(url, headers={**headers, "X-Request-ID": request_id})
        assert answer.status_code == 403
        assert "tagtrail status" in answer.text
    upgrade = head("/tell", *UPGRADE, method="GET").replace(b"close", b"Upgrade")
    assert exchange(address.http_port, upgrade, host=address.host).startswith(b"HTTP/1.1 403")

    assert records_of(request_id) == []


def test_the_token_is_told_to_nobody(shared_instance: Instance) -> None:
    told = shared_instance.http.get("/tell", headers={"X-Serve-Token": "mine"}).json()
    assert SECRET_HEADER not in told["headers"]
    (folder,) = run_folders(shared_instance.port)
    config = folder / "haproxy.cfg"
    (token,) = set(re.findall(r"X-Serve-Token ([0-9a-f]{64})", config.read_text()))
    assert (folder.stat().st_mode & 0o077, config.stat().st_mode & 0o077) == (0, 0)

    assert token not in told["values"]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended since it was listed
            assert token.encode() not in process.read_bytes()
    for path in Path(session_folder()).rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def test_on_one_node_nothing_of_ours_listens_beyond_loopback(shared_instance: Instance) -> None:
    address = address_of("tell")
    own_ports = {shared_instance.port, address.http_port, address.call_port}
    (folder,) = run_folders(shared_instance.port)
    listening = read_listening()
    for pid in haproxies(folder):
        own_ports |= {port for _, port in sockets_of(pid, listening)}

    assert {host for host, port in listening.values() if port in own_ports} == {"127.0.0.1"}
    assert not address.is_exposed


# Strangers make no ERROR.

application = FastAPI()


@application.post("/read")
async def read(request: Request) -> int:
    return len(await request.body())


@application.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@application.websocket("/refused")
async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


CHUNKED = "Transfer-Encoding: chunked"
ODD = {
    "bad chunk": (head("/{}/read", CHUNKED), b"zz\r\n"),
    "bad chunk later": (head("/{}/read", CHUNKED) + b"5\r\nhello\r\n", b"zz\r\n"),
    "bad chunk in one": (head("/{}/read", CHUNKED) + b"zz\r\n",),
    "odd trailer": (head("/{}/read", CHUNKED), b"1\r\nx\r\n0\r\nA: \x7f\r\n\r\n"),
    "length as trailer": (head("/{}/read", CHUNKED), b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "odd header": (head("/{}/read", "A: \x7f"),),
    "websocket to plain": (head("/{}/read", *UPGRADE, method="GET").replace(b"close", b"Upgrade"),),
    "websocket to no route": (
        head("/{}/none", *UPGRADE, method="GET").replace(b"close", b"Upgrade"),
    ),
    "websocket refused": (
        head("/{}/refused", *UPGRADE, method="GET").replace(b"close", b"Upgrade"),
    ),
    "websocket without key": (
        head("/{}/echo", UPGRADE[0], method="GET").replace(b"close", b"Upgrade"),
    ),
    "websocket with a body": (
        head("/{}/echo", *UPGRADE, CHUNKED).replace(b"close", b"Upgrade") + b"0\r\nA: b\r\n\r\n",
    ),
    "websocket with a length": (
        head("/{}/echo", *UPGRADE, "Content-Length: 1", method="GET").replace(b"close", b"Upgrade"),
        b"x",
    ),
    "other upgrade": (
        head("/{}/read", "Upgrade: h2c", method="GET").replace(b"close", b"Upgrade"),
    ),
    "short upload": (head("/{}/read", "Content-Length: 100000"), b"x" * 5000, b""),
    "short chunks": (head("/{}/read", CHUNKED), b"5\r\nhello\r\n", b""),
}


def errors() -> list[Record]:
    return read_records(lambda record: record["level"] in ("ERROR", "CRITICAL"))


def access_records() -> list[Record]:
    return read_records(lambda record: record["kind"] == "access")


def leave_after(port: int, *parts: bytes) -> None:
    """Send the parts and go away; an answer that came is read, none is waited for."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        if parts[-1]:
            connection.recv(65_536)


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("kind", ["plain", "asgi"])
def test_a_stranger_makes_one_record_and_no_error(
    shared_instance: Instance, what: str, kind: str
) -> None:
    before, seen = errors(), access_records()
    parts = [part.replace(b"/{}/read", f"/{kind}/read".encode()) for part in ODD[what]]

    leave_after(shared_instance.port, *[p.replace(b"/{}", f"/{kind}".encode()) for p in parts])

    wait_until(lambda: len(access_records()) > len(seen))
    time.sleep(0.2)  # a second one would be wrong
    (record,) = [record for record in access_records() if record not in seen]
    assert record["level"] == "INFO", record
    assert record["status"] < 500
    assert record.get("error") not in ("replica_died", "bad_answer")
    assert errors() == before


def test_a_websocket_message_that_is_no_text_makes_no_error(
    shared_instance: Instance,
) -> None:
    request_id = make_request_id()
    upgrade = head("/asgi/echo", *UPGRADE, f"X-Request-ID: {request_id}", method="GET")
    before = errors()
    with socket.create_connection(("127.0.0.1", shared_instance.port), timeout=30) as connection:
        connection.sendall(upgrade.replace(b"close", b"Upgrade"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 101")
        connection.sendall(b"\x81\x82\0\0\0\0\xff\xfe")
        assert connection.recv(65_536)[2:4] == (1007).to_bytes(2, "big")
    assert record_of(request_id)["level"] == "INFO"
    assert errors() == before


def test_what_a_stranger_does_to_a_connection_harms_no_other_request(
    shared_instance: Instance,
) -> None:
    for what, (first, *rest) in ODD.items():
        for kind in (b"plain", b"asgi"):
            leave_after(shared_instance.port, first.replace(b"{}", kind), *rest)
            for _ in range(5):
                answer = shared_instance.http.post(f"/{kind.decode()}/read", content=b"whole")
                assert (answer.status_code, answer.text) == (200, "5"), what


class Filenames:
    """Puts what the client sent into a header, as downloads do; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, request: Any) -> Response:
        self.runs += 1
        name = request.query_params["name"]
        return Response(b"", headers={"Content-Disposition": f"attachment; filename={name}"})

    def count(self) -> int:
        return self.runs


def test_a_header_that_a_client_broke_is_one_run_one_500_and_one_record(
    shared_instance: Instance, deploy: Deploy
) -> None:
    name = deploy(Filenames, route="/filenames")
    request_id = make_request_id()

    answer = shared_instance.http.get(
        "/filenames?name=a%0d%0aSet-Cookie:%20b", headers={"X-Request-ID": request_id}
    )

    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    record = record_of(request_id)
    assert (record["status"], record["component"]) == (500, "serve")
    assert "'Content-Disposition'" in record["error"] or "'content-disposition'" in record["error"]
    assert serve.get_handle(name).options(method_name="count").call().result(60) == 1
