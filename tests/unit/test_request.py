"""What a handler is given, from a handle and from HTTP."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from serve.call import Call
from serve.errors import RayServeException
from serve.request import HTTPRequest, ServeRequest, copy_facts, cross_loop_receive, rebuild_request


def call_request(data: object = None, **kwargs: Any) -> ServeRequest:
    return ServeRequest(Call(data, kwargs, "__call__", "e", "r-1"))


async def test_the_data_of_a_call_is_the_object_itself_whichever_way_it_is_read() -> None:
    data = {"a": object()}
    request = call_request(data)
    assert request.data is data
    assert await request.body() is data
    assert await request.json() is data
    assert await request.form() is data


@pytest.mark.parametrize("data", [None, [1], "text", b"{}", 1])
async def test_json_and_form_of_what_is_no_dictionary_are_refused(data: object) -> None:
    request = call_request(data)
    for read in (request.json, request.form):
        with pytest.raises(
            RayServeException, match=f"Request data is not a dictionary. It is {type(data)}"
        ):
            await read()


def test_keyword_arguments_are_query_parameters_with_their_python_types() -> None:
    request = call_request(None, a=1, b=[1, 2])
    assert request.query_params["a"] == 1
    assert request.query_params.get("c") is None
    assert request.query_params.getlist("a") == [1]
    assert request.query_params.getlist("b") == [1, 2]
    assert request.query_params.getlist("c") == []


def test_a_call_has_the_headers_and_the_method_it_was_made_with() -> None:
    request = ServeRequest(
        Call(None, {}, "__call__", "e", "r-1", http_method="POST", headers={"X-Mine": "1"})
    )
    own = {"X-Serve-Call-Method": "__call__", "X-Serve-Shard-Key": None}
    assert (request.headers, request.method) == ({**own, "X-Mine": "1"}, "POST")


def test_a_call_request_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(call_request({"a": 1}, b=2)))
    assert (copy.data, copy.query_params, copy.method) == ({"a": 1}, {"b": 2}, "GET")
    assert copy.query_params.getlist("b") == [2]


SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/users/7",
    "query_string": b"a=1&a=2",
    "root_path": "",
    "headers": [(b"x-mine", b"yes"), (b"content-type", b"application/json")],
    "client": ("10.0.0.1", 5),
    "server": ("127.0.0.1", 80),
    "path_params": {"id": 7},
}


def receive_parts(*parts: bytes) -> Any:
    messages = [
        {"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts
    ]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def http_request(*parts: bytes, **more: Any) -> HTTPRequest:
    return HTTPRequest({**SCOPE, **more}, receive_parts(*parts))


def test_blocking_code_reads_the_whole_body_as_data() -> None:
    request = http_request(b'{"a"', b": 1}")
    assert request.data == b'{"a": 1}'
    assert request.data == b'{"a": 1}'


async def test_data_on_the_event_loop_is_refused_until_the_body_was_read() -> None:
    request = http_request(b"abc")
    with pytest.raises(RayServeException, match=r"await request\.body\(\)"):
        _ = request.data
    assert await request.body() == request.data == b"abc"


async def test_a_request_that_was_read_survives_pickling_with_all_its_facts() -> None:
    request = http_request(b'{"a": 1}')
    await request.body()
    copy = pickle.loads(pickle.dumps(request))
    assert type(copy) is HTTPRequest
    assert (copy.method, copy.url.path, copy.path_params) == ("POST", "/users/7", {"id": 7})
    assert copy.query_params.getlist("a") == ["1", "2"]
    assert copy.headers["x-mine"] == "yes"
    assert copy.client.host == "10.0.0.1"
    assert await copy.json() == {"a": 1}


async def test_a_request_whose_body_was_not_read_cannot_be_pickled() -> None:
    with pytest.raises(RayServeException, match="only after its body was read"):
        pickle.dumps(http_request(b"abc"))


def test_what_belongs_to_the_connection_is_no_fact() -> None:
    extra = {"app": object(), "extensions": {}, "state": {}, "serve_endpoint": "e"}
    assert copy_facts({**SCOPE, **extra}) == SCOPE


def test_facts_are_copied_and_the_scope_stays() -> None:
    scope = dict(SCOPE)
    copy_facts(scope)["path"] = "/other"
    assert scope["path"] == "/users/7"


async def test_a_rebuilt_request_ends_with_a_disconnect() -> None:
    request = rebuild_request(dict(SCOPE), b"abc")
    assert await request.body() == b"abc"
    assert (await request.receive())["type"] == "http.disconnect"


async def test_a_thread_of_its_own_loop_reads_what_the_servers_loop_receives() -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()  # belongs to this loop
    receive = cross_loop_receive(queue.get, asyncio.get_running_loop())
    request = HTTPRequest(SCOPE, receive)
    reading = asyncio.get_running_loop().run_in_executor(None, lambda: request.data)
    queue.put_nowait({"type": "http.request", "body": b"abc", "more_body": False})
    assert await asyncio.wait_for(reading, 60) == b"abc"
