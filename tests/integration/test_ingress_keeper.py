"""Life of an ingress: changes under load, restarts, and its end in every way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from serve.errors import RayServeException
from serve.ingress import keeper as keeper_module
from serve.ingress import render
from serve.ingress.admin import AdminError
from serve.ingress.keeper import IngressKeeper
from serve.ingress.names import server_name
from serve.ingress.plan import ChangeKind
from serve.ingress.records import Document, IngressSettings
from serve.records import IngressTable
from tests.integration.test_ingress_stage import (
    HaproxyView,
    Replica,
    backend,
    free_port,
    ingress,
    replicas,
    route,
    table,
    until,
    watched_ingress,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def short_path() -> Iterator[Path]:
    """pytest's own folders are too long for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ing-", dir="/tmp") as folder:
        yield Path(folder)


class Load:
    """Keep-alive connections, one request after the other; anything but a 200 is a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.served = 0
        self.failures: list[str] = []
        self._is_ending = False

    async def _connection(self) -> None:
        writer: asyncio.StreamWriter | None = None
        while not self._is_ending:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(b"POST /f HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.split("content-length: ")[1].split("\r\n")[0])
                body = await reader.readexactly(size)
                if " 200 " not in head.splitlines()[0]:
                    self.failures.append(f"{head.splitlines()[0]} {body!r}")
                if "connection: close" in head:
                    writer.close()
                    writer = None
                self.served += 1
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))
                writer = None
        if writer is not None:
            writer.close()

    async def next(self, count: int = 50) -> None:
        goal = self.served + count
        while self.served < goal:
            await asyncio.sleep(0.002)

    @contextlib.asynccontextmanager
    async def running(self, connections: int = 16) -> AsyncIterator[Load]:
        tasks = [asyncio.create_task(self._connection()) for _ in range(connections)]
        try:
            yield self
        finally:
            self._is_ending = True
            await asyncio.gather(*tasks)


def served_by(*members: Replica, queue_timeout_s: float = 60.0) -> IngressTable:
    return table(
        [route("e", "/{x}", {"b": 1}, methods=())],
        backend("b", *members, queue_timeout_s=queue_timeout_s),
    )


async def test_twenty_reloads_and_twenty_server_changes_lose_no_request() -> None:
    async with replicas("b#one", "b#two", "b#new") as [one, two, new]:
        async with watched_ingress(served_by(one, two)) as (keeper, client, haproxy):

            async def new_is_gone() -> bool:
                return new.at not in await haproxy.addresses()

            async with Load(client.base_url.port or 0).running() as load:
                await load.next()
                for turn in range(20):
                    changed = served_by(one, two, queue_timeout_s=10 + turn)
                    assert await keeper.apply(changed) is ChangeKind.RELOAD
                    await load.next()
                for _ in range(10):
                    more = served_by(one, two, new, queue_timeout_s=29)
                    assert await keeper.apply(more) is ChangeKind.RUNTIME
                    await load.next()
                    fewer = served_by(one, two, queue_timeout_s=29)
                    assert await keeper.apply(fewer) is ChangeKind.RUNTIME
                    await until(new_is_gone)
            assert load.failures == []
            assert load.served > 1000
            assert new.requests > 10


async def test_a_removed_replica_finishes_what_it_has_and_gets_nothing_new() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy):

            async def one_is_gone() -> bool:
                return await haproxy.addresses() == [two.at]

            under_way = asyncio.create_task(client.get("/hold"))
            await one.is_holding.wait()
            assert await keeper.apply(served_by(two)) is ChangeKind.RUNTIME
            for _ in range(10):
                assert (await client.get("/x")).json()["replica"] == "b#two"
            assert one.at in await haproxy.addresses()
            one.release.set()
            assert (await under_way).json()["replica"] == "b#one"
            await until(one_is_gone)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAProxy tries for so long that no machine is too slow for what happens meanwhile."""
    monkeypatch.setattr(render, "RETRY_WINDOW_S", 300.0)


@pytest.mark.usefixtures("patient")
async def test_a_request_waits_for_a_restarting_replica_and_finds_its_new_address() -> None:
    gone = Replica("b#one", free_port())
    async with replicas("b#one") as [back]:
        async with watched_ingress(served_by(gone)) as (keeper, client, haproxy):
            for method in ("GET", "POST"):
                await keeper.apply(served_by(gone))
                waiting = asyncio.create_task(client.request(method, "/x"))
                assert await keeper.apply(served_by()) is ChangeKind.NOTHING
                await refused(haproxy, 5)  # the restart
                assert not waiting.done()
                assert await keeper.apply(served_by(back)) is ChangeKind.RUNTIME
                response = await waiting
                assert (response.status_code, response.json()["method"]) == (200, method)


async def refused(haproxy: HaproxyView, count: int) -> None:
    """Wait for so many more attempts to connect."""
    goal = await haproxy.retries() + count

    async def are_made() -> bool:
        return await haproxy.retries() >= goal

    await until(are_made)


@pytest.mark.usefixtures("patient")
async def test_a_waiting_request_moves_to_the_replica_that_took_the_place_of_its_own() -> None:
    gone = Replica("b#gone", free_port())
    async with replicas("b#new") as [new]:
        async with watched_ingress(served_by(gone)) as (keeper, client, haproxy):
            waiting = asyncio.create_task(client.get("/x"))
            await refused(haproxy, 1)
            assert await keeper.apply(served_by(new)) is ChangeKind.RUNTIME
            assert (await waiting).json()["replica"] == "b#new"


async def test_refused_by_its_only_replica_a_request_gives_up_after_about_five_seconds() -> None:
    async with ingress(served_by(Replica("b#gone", free_port()))) as (_, client):
        started = time.monotonic()
        response = await client.get("/x")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - started > 4


async def test_a_dead_replica_beside_a_living_one_costs_no_request() -> None:
    async with replicas("b#one") as [one]:
        async with ingress(served_by(Replica("b#gone", free_port()), one)) as (_, client):
            for _ in range(20):
                assert (await client.post("/x")).json()["replica"] == "b#one"


async def test_a_reload_cuts_no_websocket() -> None:
    async with replicas("b#one") as [one]:
        async with ingress(served_by(one)) as (keeper, client):
            async with connect(f"ws://127.0.0.1:{client.base_url.port}/ws") as socket_:
                for turn in range(3):
                    await keeper.apply(served_by(one, queue_timeout_s=10 + turn))
                    await socket_.send(str(turn))
                    assert await socket_.recv() == str(turn)


async def test_what_cannot_be_served_is_refused_and_the_old_goes_on() -> None:
    async with replicas("b#one") as [one]:
        async with ingress(served_by(one)) as (keeper, client):
            with pytest.raises(ValueError, match="Control"):
                await keeper.apply(table([route("bad\nname", "/bad", {})]))
            assert (await client.get("/x")).status_code == 200
            assert keeper.table == served_by(one)


async def test_a_refused_reload_keeps_the_old_one_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async with replicas("b#one") as [one]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy):
            config = Path(haproxy.settings.config_path)
            before = config.read_text()
            bad = Document((("haproxy.cfg", before + "\nnonsense here\n"),))
            monkeypatch.setattr(keeper_module, "render", lambda table, settings: bad)
            with pytest.raises(RayServeException, match="nonsense"):
                await keeper.apply(served_by(one, queue_timeout_s=7))
            assert config.read_text() == before
            assert keeper.table == served_by(one)
            assert (await client.get("/x")).status_code == 200


async def test_a_failed_runtime_command_becomes_a_reload() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy):
            states = await haproxy.admin.list_servers()
            section = next(s.section for s in states if s.section.startswith("b_"))
            await haproxy.admin.add_server(section, server_name("b#two"), "127.0.0.1", 9, 1)
            with pytest.raises(AdminError, match="Already exists"):
                await haproxy.admin.add_server(section, server_name("b#two"), "127.0.0.1", 9, 1)
            assert await keeper.apply(served_by(one, two)) is ChangeKind.RELOAD
            seen = {(await client.get("/x")).json()["replica"] for _ in range(10)}
            assert seen == {"b#one", "b#two"}


async def test_a_killed_haproxy_comes_back_with_the_last_table() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with ingress(served_by(one)) as (keeper, client):
            supervisor = asyncio.create_task(keeper.supervise())
            await keeper.apply(served_by(two))
            first = keeper.pid
            assert first
            os.kill(first, signal.SIGKILL)

            async def is_back() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get("/x")
                    return keeper.pid != first and answer.json()["replica"] == "b#two"
                return False

            await until(is_back)
            await keeper.stop(0)
            await asyncio.wait_for(supervisor, 60)


async def test_a_taken_port_is_a_value_error_that_names_it(short_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        keeper = IngressKeeper(IngressSettings("127.0.0.1", port, str(short_path / "run")))
        with pytest.raises(
            ValueError, match=f"Failed to bind Ray Serve HTTP proxy to '127\\.0\\.0\\.1:{port}'"
        ):
            await keeper.start(IngressTable())
        await keeper.stop()


async def test_its_folder_is_nobody_elses() -> None:
    async with watched_ingress(IngressTable()) as (_, _, haproxy):
        assert Path(haproxy.settings.folder).stat().st_mode & 0o777 == 0o700
        assert Path(haproxy.settings.admin_socket).stat().st_mode & 0o777 == 0o600


async def test_stop_waits_for_requests_but_not_for_idle_connections() -> None:
    async with replicas("b#one") as [one]:
        async with ingress(served_by(one)) as (keeper, client):
            await client.get("/x")  # leaves an idle connection
            under_way = asyncio.create_task(client.get("/hold"))
            await one.is_holding.wait()
            group = keeper.pid or 0
            await keeper.apply(served_by(one, queue_timeout_s=1))  # an old worker holds it
            # Who waited for the idle connection, or for the whole grace, would not see the end.
            stopping = asyncio.create_task(keeper.stop(600))
            await asyncio.sleep(0.3)
            assert not stopping.done()
            one.release.set()
            assert (await under_way).status_code == 200
            await stopping
            assert _group_is_gone(group)


async def test_stop_cuts_what_is_left_after_its_grace() -> None:
    async with replicas("b#one") as [one]:
        async with ingress(served_by(one)) as (keeper, client):
            under_way = asyncio.create_task(client.get("/hold"))
            await one.is_holding.wait()
            group = keeper.pid or 0
            await keeper.stop(0.3)
            assert _group_is_gone(group)
            with pytest.raises(httpx.TransportError):
                await under_way


def _group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


PARENT = """
import asyncio, sys
from serve.ingress.keeper import IngressKeeper
from serve.ingress.records import IngressSettings
from serve.ingress import process
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.traffic import TrafficPolicy
process.ORPHAN_GRACE_S = 3
async def main():
    keeper = IngressKeeper(IngressSettings("127.0.0.1", int(sys.argv[1]), sys.argv[2]))
    member = ReplicaAddress("b#a", "", "", "127.0.0.1", int(sys.argv[3]), 0)
    await keeper.start(IngressTable(
        (IngressRoute("e", "/{x}", (), False, TrafficPolicy.of({"b": 1})),),
        (BackendTargets("b", (member,)),)))
    print(keeper.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


WITHOUT_KERNEL = """
import sys, serve.ingress.guard
guard = sys.modules["serve.ingress.guard"]
assert '"linux"' in guard._LAUNCH
guard._LAUNCH = guard._LAUNCH.replace('"linux"', '"none"')
"""


@pytest.mark.parametrize("is_guarded_by_kernel", [True, False])
async def test_haproxy_ends_with_its_killed_parent_and_requests_finish(
    short_path: Path, is_guarded_by_kernel: bool
) -> None:
    async with replicas("b#a") as [member]:
        port, folder = free_port(), str(short_path / "run")
        code = PARENT
        if not is_guarded_by_kernel:  # only the shell that stands by is left
            code = WITHOUT_KERNEL + PARENT
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(port), folder, str(member.port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout
        master = int(await asyncio.to_thread(parent.stdout.readline))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        idle.write(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
        await idle_reader.readuntil(b"}")
        await member.is_holding.wait()
        parent.kill()
        parent.wait()
        parent.stdout.close()
        while _accepts(port):
            await asyncio.sleep(0.01)
        member.release.set()
        assert b" 200 " in await reader.readline()  # the idle connection keeps it until the limit
        while not _group_is_gone(master):
            await asyncio.sleep(0.05)
        writer.close()
        idle.close()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
