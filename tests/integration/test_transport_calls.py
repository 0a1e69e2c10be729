"""Calls over real sockets, on both loops; after each test no task and no call is left."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
import uvloop

from serve.errors import RayServeException, ReplicaDiedError, ReplicaUnavailableError
from serve.records import ReplicaAddress
from serve.transport.client import Connection, connect
from serve.transport.failures import RemoteError
from serve.transport.frames import HEADER, MessageError, control_frame
from serve.transport.served import WAITING_BYTES
from serve.transport.server import CallServer
from tests.conftest import free_port
from tests.integration.relay import Relay, until_still

SECRET = b"s" * 32
TAG = "model#abcdef"


def on_both_loops(test: Callable[[], Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test on each loop, and checks that it leaves no task behind."""

    @pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        loop = new_loop()
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(test(), 90))
            assert asyncio.all_tasks(loop) == set()
            assert complaints == []
        finally:
            loop.close()

    functools.update_wrapper(run, test, assigned=("__name__", "__doc__", "__module__"))
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


async def address_of(server: CallServer, tag: str = TAG) -> ReplicaAddress:
    bound = await server.start("127.0.0.1")
    return ReplicaAddress(tag, "actor", "node", "127.0.0.1", 0, bound.port, bound.socket_name)


@contextlib.asynccontextmanager
async def served(
    handler: Callable[[Any], Awaitable[object]],
    *,
    node: str = "node",
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[CallServer, Connection]]:
    """A server and one connection to it; `node="other"` goes by TCP.

    `changes` are of the address that the client gets.
    """
    server = CallServer(handler, SECRET, replica_tag=TAG, **options)
    address = dataclasses.replace(await address_of(server), **(changes or {}))
    connection = await connect(address, SECRET, local_node_id=node)
    try:
        yield server, connection
    finally:
        connection.close()
        await connection.wait_closed()
        await server.close()
        assert server.in_flight == 0
        assert connection.in_flight == 0
        assert connection.closed


@contextlib.asynccontextmanager
async def relayed(
    handler: Callable[[Any], Awaitable[object]], **options: Any
) -> AsyncIterator[tuple[Relay, Connection]]:
    """A server and one connection to it, by TCP through a relay."""
    server = CallServer(handler, SECRET, replica_tag=TAG, **options)
    address = await address_of(server)
    async with Relay().running(address.call_port) as relay:
        address = dataclasses.replace(address, call_port=relay.port)
        connection = await connect(address, SECRET, local_node_id="other")
        try:
            yield relay, connection
        finally:
            connection.close()
            await connection.wait_closed()
            await server.close()


async def echo(message: object) -> object:
    return message


@on_both_loops
async def test_calls_are_answered_by_unix_socket_and_by_tcp() -> None:
    only_there = {"node": {"call_port": free_port()}, "other": {"call_socket": "nobody-there"}}
    for node, changes in only_there.items():
        async with served(echo, node=node, changes=changes) as (_, connection):
            for message in (None, {"a": [1, 2.5]}, "x" * 300_000, bytes(1_000_000)):
                assert await connection.call(message) == message


@on_both_loops
async def test_a_thousand_calls_in_flight_get_each_its_own_answer() -> None:
    async def handler(message: int) -> int:
        await asyncio.sleep(0.001 * (message % 7))
        return message * 2

    async with served(handler, max_running=100) as (_, connection):
        futures = [connection.call(i) for i in range(1000)]
        assert connection.in_flight == 1000
        assert await asyncio.gather(*futures) == [i * 2 for i in range(1000)]


@on_both_loops
async def test_a_received_array_is_a_view_on_the_receive_buffer() -> None:
    bases: list[object] = []

    async def handler(array: np.ndarray[Any, Any]) -> object:
        bases.append(array.base)
        return array

    array = np.arange(1_000_000)
    async with served(handler) as (_, connection):
        answer = await connection.call(array)
    np.testing.assert_array_equal(answer, array)
    for base in (bases[0], answer.base):
        while isinstance(base, np.ndarray):
            base = base.base
        view = base.obj if isinstance(base, memoryview) else base
        assert isinstance(view, bytearray | pickle_buffer()), type(view)


def pickle_buffer() -> type:
    import pickle

    return pickle.PickleBuffer


@pytest.mark.slow
@on_both_loops
async def test_a_message_of_200_megabytes_arrives_whole() -> None:
    array = np.arange(25_000_000, dtype=np.uint64)
    async with served(echo, node="other") as (_, connection):
        answer = await connection.call({"array": array, "text": "t"})
        assert answer["text"] == "t"
        assert np.array_equal(answer["array"], array)


@on_both_loops
async def test_cancelling_a_call_reaches_the_handler() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(message: object) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with served(handler) as (server, connection):
        future = connection.call(1)
        await started.wait()
        assert server.in_flight == 1
        future.cancel()
        assert connection.in_flight == 0
        await ended.wait()
        await asyncio.sleep(0)
        assert server.in_flight == 0
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.call(2), 0.01)


@on_both_loops
async def test_a_cancelled_call_that_still_waits_never_runs() -> None:
    release, seen = asyncio.Event(), []

    async def handler(message: int) -> int:
        seen.append(message)
        await release.wait()
        return message

    async with served(handler, max_running=1) as (_, connection):
        first, second, third = (connection.call(i) for i in range(3))
        second.cancel()
        while not seen:
            await asyncio.sleep(0.001)
        release.set()
        assert [await first, await third] == [0, 2]
        assert seen == [0, 2]


@on_both_loops
async def test_a_call_that_is_cancelled_before_it_began_is_told_of_and_not_run() -> None:
    release, seen, unrun = asyncio.Event(), [], []

    async def handler(message: int) -> int:
        seen.append(message)
        await release.wait()
        return message

    async with served(handler, max_running=2, unrun=unrun.append) as (_, connection):
        first, at_once, second, waiting = (connection.call(i) for i in (1, 0, 2, 3))
        at_once.cancel()  # its two frames leave together
        waiting.cancel()
        while len(unrun) < 2:
            await asyncio.sleep(0.001)
        release.set()
        assert [await first, await second] == [1, 2]
        assert (sorted(unrun), sorted(seen)) == ([0, 3], [1, 2])


@on_both_loops
async def test_a_call_whose_client_left_before_it_began_is_told_of() -> None:
    seen, unrun = asyncio.Event(), []

    async def handler(message: object) -> None:
        seen.set()
        await asyncio.sleep(3600)

    async with served(handler, max_running=1, unrun=unrun.append) as (_, connection):
        connection.call("runs").add_done_callback(asyncio.Future.exception)
        connection.call("waits").add_done_callback(asyncio.Future.exception)
        await seen.wait()
        connection.close()
        await connection.wait_closed()
        while not unrun:
            await asyncio.sleep(0.001)
        assert unrun == ["waits"]


@on_both_loops
async def test_what_is_lost_is_what_the_replica_has_not_told_of() -> None:
    """Calls that were cancelled are, too, until the replica says that they are over."""
    told, begun, lost = [], asyncio.Event(), []

    async def handler(message: str) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            told.append(message)

    async with relayed(handler) as (relay, connection):
        connection.on_loss = lost.extend
        known = connection.call("known")
        await begun.wait()
        known.cancel()
        await until_still(lambda: relay.down.passed)
        relay.down.is_open.clear()  # from now on the client hears of nothing
        begun.clear()
        cancelled, running = connection.call("cancelled"), connection.call("running")
        await begun.wait()
        cancelled.cancel()
        while told != ["known", "cancelled"]:
            await asyncio.sleep(0.001)
        relay.cut()
        with pytest.raises(ReplicaDiedError):
            await running
        assert [(call.message, call.cancelled()) for call in lost] == [
            ("cancelled", True),
            ("running", False),
        ]


@on_both_loops
async def test_a_server_that_stops_tells_its_clients_which_calls_it_ended() -> None:
    begun, lost = asyncio.Event(), []

    async def handler(message: object) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async with served(handler) as (server, connection):
        connection.on_loss = lost.extend
        call = connection.call(1)
        await begun.wait()
        await server.close()
        with pytest.raises(ReplicaDiedError, match="it stopped while it ran the call"):
            await call
        await connection.wait_closed()
        assert lost == []


@on_both_loops
async def test_what_the_handler_raises_arrives_with_its_traceback() -> None:
    async def handler(message: object) -> None:
        if message == "exit":
            sys.exit("leaving")
        if message == "cancel":
            raise asyncio.CancelledError
        if message == "interrupt":
            raise KeyboardInterrupt  # asyncio would end the whole loop
        raise KeyError(message)

    async with served(handler) as (_, connection):
        with pytest.raises(RemoteError) as caught:
            await connection.call("name")
        assert isinstance(caught.value.cause, KeyError)
        assert "raise KeyError(message)" in caught.value.traceback_text
        kinds = {
            "exit": SystemExit,
            "cancel": asyncio.CancelledError,
            "interrupt": KeyboardInterrupt,
        }
        for message, kind in kinds.items():
            with pytest.raises(RemoteError) as caught:
                await connection.call(message)
            assert isinstance(caught.value.cause, kind)


class Unreadable:
    """Pickles, and raises where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@on_both_loops
async def test_what_cannot_be_carried_fails_its_call_and_no_other() -> None:
    async def handler(message: object) -> object:
        return {"generator": (i for i in "x"), "unreadable": Unreadable()}.get(str(message), 1)

    async with served(handler) as (_, connection):
        with pytest.raises(MessageError, match="generator"):
            connection.call(i for i in "x")
        with pytest.raises(RemoteError, match="generator") as caught:
            await connection.call("generator")
        assert isinstance(caught.value.cause, MessageError)
        with pytest.raises(RemoteError, match="not a number"):
            await connection.call(Unreadable())
        with pytest.raises(MessageError, match="not a number"):
            await connection.call("unreadable")
        assert await connection.call("fine") == 1


@on_both_loops
async def test_a_lost_connection_fails_what_is_in_flight_and_cancels_it() -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def handler(message: object) -> None:
        running.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with served(handler) as (server, connection):
        future = connection.call(1)
        await running.wait()
        connection.close()
        with pytest.raises(ReplicaDiedError, match=TAG):
            await future
        with pytest.raises(ReplicaUnavailableError, match="Nothing was sent"):
            connection.call(2)
        await ended.wait()

    async with served(handler) as (server, connection):
        running.clear()
        future = connection.call(1)
        await running.wait()
        await server.close()
        with pytest.raises(ReplicaDiedError, match=r"127\.0\.0\.1:\d+ did not answer"):
            await future


@on_both_loops
async def test_draining_finishes_what_runs_and_rejects_the_rest() -> None:
    release, seen = asyncio.Event(), []

    async def handler(message: int) -> int:
        seen.append(message)
        await release.wait()
        return message

    async with served(handler, max_running=1) as (server, connection):
        running, waiting = connection.call(1), connection.call(2)
        while not seen:
            await asyncio.sleep(0.001)
        server.drain()
        crossing = connection.call(3)  # the GOAWAY is not read yet
        for rejected in (waiting, crossing):
            with pytest.raises(ReplicaUnavailableError, match="did not execute"):
                await rejected
        assert connection.draining
        with pytest.raises(ReplicaUnavailableError, match="draining"):
            connection.call(4)
        assert server.in_flight == 1
        release.set()
        assert await running == 1
        await server.wait_idle()
        assert seen == [1]


@on_both_loops
async def test_a_connection_made_while_draining_learns_of_it() -> None:
    server = CallServer(echo, SECRET)
    address = await address_of(server)
    server.drain()
    connection = await connect(address, SECRET, local_node_id="node")
    with pytest.raises(ReplicaUnavailableError):
        await connection.call(1)
    connection.close()
    await server.close()


@on_both_loops
async def test_answers_written_before_the_close_still_arrive() -> None:
    async with served(echo) as (server, connection):
        future = connection.call(np.ones(1_000_000))
        while not server.in_flight and not future.done():
            await asyncio.sleep(0)
        server.drain()
        await server.wait_idle()
        await server.close()
        assert (await future).sum() == 1_000_000


@pytest.mark.slow
@on_both_loops
async def test_a_client_that_does_not_read_is_not_buffered_for_without_limit() -> None:
    made = 0

    async def handler(message: int) -> bytes:
        nonlocal made
        made += 1
        return bytes(1_000_000)

    async with relayed(handler, max_running=8) as (relay, connection):
        assert len(await connection.call(0)) == 1_000_000
        relay.down.is_open.clear()
        futures = [connection.call(i) for i in range(200)]
        # Eight that run; what the system's own buffers and one of the server hold; no more.
        assert 8 < await until_still(lambda: made) <= 40
        relay.down.is_open.set()
        assert sum(len(answer) for answer in await asyncio.gather(*futures)) == 200_000_000


@pytest.mark.slow
@on_both_loops
async def test_a_client_that_floods_is_left_unread() -> None:
    release = asyncio.Event()

    async def handler(message: bytes) -> int:
        await release.wait()
        return len(message)

    async with relayed(handler, max_running=1) as (relay, connection):
        futures = [connection.call(bytes(1_000_000)) for _ in range(60)]
        # What waits, and what the system's own buffers hold.
        taken = await until_still(lambda: relay.up.passed)
        assert WAITING_BYTES < taken < WAITING_BYTES + 20_000_000
        release.set()
        assert await asyncio.gather(*futures) == [1_000_000] * 60


@on_both_loops
async def test_bytes_that_are_no_frame_end_the_connection() -> None:
    async with relayed(echo) as (relay, connection):
        relay.up.add(b"GET / HTTP/1.1\r\n\r\n" * 2)
        with pytest.raises(ReplicaDiedError):
            await connection.call(1)


@on_both_loops
async def test_frames_only_the_other_side_may_send_end_the_connection() -> None:
    async with relayed(echo) as (relay, connection):
        await connection.call(1)
        relay.up.add(HEADER.pack(2, 0, 1, 0))
        await connection.wait_closed()
    async with relayed(echo) as (relay, connection):
        await connection.call(1)
        relay.down.add(control_frame(4, 9))  # type: ignore[arg-type]
        await connection.wait_closed()


@on_both_loops
async def test_nobody_listening_and_another_replica_there_are_unavailable() -> None:
    server = CallServer(echo, SECRET, replica_tag="other#abcdef")
    address = await address_of(server)
    with pytest.raises(ReplicaUnavailableError, match="another replica"):
        await connect(address, SECRET, local_node_id="node")
    await server.close()
    with pytest.raises(ReplicaUnavailableError, match=f"{TAG}.*Has the replica stopped"):
        await connect(address, SECRET, local_node_id="node")


@on_both_loops
async def test_a_socket_name_of_another_namespace_falls_back_to_tcp() -> None:
    server = CallServer(echo, SECRET)
    bound = await server.start("127.0.0.1")
    address = ReplicaAddress(TAG, "actor", "node", "127.0.0.1", 0, bound.port, "tagtrail-nowhere")
    connection = await connect(address, SECRET, local_node_id="node")
    assert await connection.call(1) == 1
    connection.close()
    await server.close()


MAIN = """
import asyncio, sys
from dataclasses import dataclass
from serve.records import ReplicaAddress
from serve.transport.client import connect

@dataclass
class Mine:
    value: int

async def main():
    address = ReplicaAddress("model#abcdef", "a", "", "127.0.0.1", 0, int(sys.argv[1]))
    connection = await connect(address, b"s" * 32, local_node_id="x")
    answer = await connection.call(Mine(3))
    assert type(answer) is Mine and answer.value == 4, answer
    connection.close()
    await connection.wait_closed()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_class_of_the_callers_main_module_travels_both_ways() -> None:
    async def handler(message: Any) -> Any:
        assert type(message).__name__ == "Mine"
        return type(message)(message.value + 1)

    server = CallServer(handler, SECRET, replica_tag=TAG)
    bound = await server.start("127.0.0.1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, str(bound.port), stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    await server.close()
    assert process.returncode == 0, errors.decode()


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="secret"):
        CallServer(echo, b"")
    assert issubclass(RemoteError, RayServeException)
