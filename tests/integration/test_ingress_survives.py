"""The keeper lives on: no disk, no descriptors, its folder taken away, and HAProxy dead besides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from observability.instrument.supervision import Troubles
from serve.errors import RayServeException
from serve.ingress import process
from serve.ingress.keeper import FILES, KEEPER, IngressKeeper
from serve.ingress.locate import find_haproxy
from serve.ingress.plan import ChangeKind
from tests.integration.test_ingress_keeper import Load, served_by
from tests.integration.test_ingress_stage import ingress, replicas, watched_ingress

pytestmark = pytest.mark.slow

WAIT_S = 60.0


async def until(is_so: Callable[[], object]) -> None:
    async def wait() -> None:
        while not is_so():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), WAIT_S)


async def until_replaced(keeper: IngressKeeper, master: int | None) -> None:
    await until(lambda: keeper.pid != master)
    assert await keeper.apply(keeper.table) is ChangeKind.NOTHING  # it waits for its turn


@contextlib.contextmanager
def no_disk() -> Iterator[None]:
    """This process can't write to a file."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with _limited(resource.RLIMIT_FSIZE):
        yield
    signal.signal(signal.SIGXFSZ, before)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process gets no new descriptor."""
    with _limited(resource.RLIMIT_NOFILE):
        yield


@contextlib.contextmanager
def _limited(what: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextlib.asynccontextmanager
async def supervised(keeper: IngressKeeper) -> AsyncIterator[None]:
    """A keeper at work."""
    supervisor = asyncio.create_task(keeper.supervise())
    try:
        yield
        assert not supervisor.done()
    finally:
        await keeper.stop(0)
        await asyncio.wait_for(supervisor, WAIT_S)


@pytest.mark.parametrize("hardship", [no_disk, no_descriptors])
async def test_haproxy_comes_back_once_what_its_start_lacked_is_there_again(
    hardship: Callable[[], contextlib.AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with replicas("b#one") as [one], watched_ingress(served_by(one)) as watched:
        keeper, client, haproxy = watched
        troubles = haproxy.troubles
        async with supervised(keeper):
            first = keeper.pid
            assert first
            with hardship():
                os.kill(first, signal.SIGKILL)
                await until(lambda: failures(troubles, KEEPER) >= 3)
                assert KEEPER in troubles.describe() and "OSError" in troubles.describe()
            await until(
                lambda: keeper.pid != first and keeper.is_running and not troubles.current()
            )
            assert (await client.get("/x")).json()["replica"] == "b#one"
    told = [r for r in caplog.records if KEEPER in r.message and r.levelno == logging.ERROR]
    assert len(told) == 1  # three failures of one reason
    assert "HAProxy is started again" in told[0].message


async def test_a_change_that_cannot_be_written_leaves_the_table_of_before_and_is_told() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with ingress(served_by(one)) as (keeper, client):
            with no_disk(), pytest.raises(RayServeException, match="can't be written"):
                await keeper.apply(served_by(one, queue_timeout_s=7))
            assert keeper.table == served_by(one)
            assert (await client.get("/x")).json()["replica"] == "b#one"
            assert await keeper.apply(served_by(two, queue_timeout_s=7)) is ChangeKind.RELOAD
            assert (await client.get("/x")).json()["replica"] == "b#two"


STUBBORN = """\
#!/bin/sh
[ "$1" = -c ] && [ -e "{flag}" ] && exec sleep 3600
exec "{haproxy}" "$@"
"""


async def test_a_check_that_never_ends_keeps_no_later_change_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flag, program = tmp_path / "flag", tmp_path / "haproxy"
    program.write_text(STUBBORN.format(flag=flag, haproxy=find_haproxy()))
    program.chmod(0o755)
    async with replicas("b#one", "b#two") as [one, two]:
        async with ingress(served_by(one), program=str(program)) as (keeper, client):
            monkeypatch.setattr(process, "CHECK_TIMEOUT_S", 0.2)
            flag.touch()
            with pytest.raises(RayServeException, match=r"did not check its configuration within"):
                await keeper.apply(served_by(one, queue_timeout_s=7))
            assert keeper.table == served_by(one)
            flag.unlink()
            monkeypatch.setattr(process, "CHECK_TIMEOUT_S", WAIT_S)
            assert await keeper.apply(served_by(two, queue_timeout_s=7)) is ChangeKind.RELOAD
            assert (await client.get("/x")).json()["replica"] == "b#two"


async def test_replicas_come_and_go_without_a_disk() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy), supervised(keeper):
            with no_disk():
                assert await keeper.apply(served_by(two)) is ChangeKind.RUNTIME
                assert (await client.get("/x")).json()["replica"] == "b#two"
            assert failures(haproxy.troubles, FILES) == 1


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_admin_socket(folder: Path) -> None:
    (folder / "admin.sock").unlink()


def remove_all_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("clean", [remove_folder, remove_admin_socket, remove_all_files])
async def test_what_a_cleaner_took_away_is_made_anew_and_requests_under_way_finish(
    clean: Callable[[Path], None],
) -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy), supervised(keeper):
            folder, first = Path(haproxy.settings.folder), keeper.pid
            under_way = asyncio.create_task(client.get("/hold"))
            await one.is_holding.wait()
            async with Load(client.base_url.port or 0).running() as load:
                await load.next()
                clean(folder)
                await until_replaced(keeper, first)
                await load.next()
                assert await keeper.apply(served_by(one, two)) is ChangeKind.RUNTIME
                changed = served_by(one, two, queue_timeout_s=7)
                assert await keeper.apply(changed) is ChangeKind.RELOAD
                await load.next()
                assert load.failures == []
            one.release.set()
            assert (await under_way).json()["replica"] == "b#one"
            states = await haproxy.admin.list_servers()
            assert {s.address for s in states if s.section.startswith("b_")} == {
                f"127.0.0.1:{one.port}",
                f"127.0.0.1:{two.port}",
            }
            assert not haproxy.troubles.current()


async def test_the_one_that_was_replaced_ends_when_its_requests_have() -> None:
    async with replicas("b#one") as [one]:
        async with watched_ingress(served_by(one)) as (keeper, client, haproxy), supervised(keeper):
            first = keeper.pid
            assert first
            shutil.rmtree(haproxy.settings.folder)
            under_way = asyncio.create_task(client.get("/hold"))
            await one.is_holding.wait()
            await until_replaced(keeper, first)
            one.release.set()
            assert (await under_way).status_code == 200
            await until(lambda: not is_alive(first))
            assert keeper.is_running
            assert (await client.get("/x")).status_code == 200
            await haproxy.admin.list_servers()  # the one that ended took nothing along
            assert Path(haproxy.settings.master_socket).exists()


async def test_a_change_does_not_wait_until_somebody_noticed_that_the_folder_is_gone() -> None:
    async with replicas("b#one", "b#two") as [one, two]:
        async with watched_ingress(served_by(one)) as (
            keeper,
            client,
            haproxy,
        ):  # nobody supervises
            shutil.rmtree(haproxy.settings.folder)
            await keeper.apply(served_by(two))
            assert (await client.get("/x")).json()["replica"] == "b#two"


async def test_stop_ends_those_that_were_replaced_too() -> None:
    async with replicas("b#one") as [one], watched_ingress(served_by(one)) as watched:
        keeper, client, haproxy = watched
        first = keeper.pid
        assert first
        under_way = asyncio.create_task(client.get("/hold"))
        await one.is_holding.wait()
        shutil.rmtree(haproxy.settings.folder)
        await keeper.apply(served_by(one, queue_timeout_s=7))
        assert keeper.pid != first and is_alive(first)
        await keeper.stop(0)
        assert not is_alive(first)
        with pytest.raises(httpx.TransportError):
            await under_way


def failures(troubles: Troubles, task: str) -> float:
    [family] = troubles.collect()
    return sum(float(v) for labels, v in family.values.items() if labels[-1] == task)  # type: ignore[arg-type]


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
