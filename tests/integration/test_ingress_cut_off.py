"""A host with replicas is cut off while they have requests under way: each of these ends."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from serve.records import ReplicaAddress
from tests.integration.hosts import Host, hosts
from tests.integration.test_ingress_stage import Replica, backend, ingress, replicas, route, table

SILENT = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
kept = []
while True:
    kept.append(listener.accept()[0])
    kept[-1].recv(65536)
    print("taken", flush=True)
"""


class SilentReplica(Replica):
    """On another host; it takes requests and never answers."""

    def __init__(self, name: str, host: Host) -> None:
        super().__init__(name)
        self._host = host

    @property
    def address(self) -> ReplicaAddress:
        return ReplicaAddress(self.name, "actor", "other", self._host.address, self.port, 0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SilentReplica]:
        command = (*self._host.prefix, sys.executable, "-c", SILENT, self._host.address)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        self._said = process.stdout
        try:
            self.port = int(await asyncio.wait_for(self._said.readline(), 60))
            yield self
        finally:
            process.kill()
            await process.wait()

    async def wait_until_taken(self) -> None:
        """A request has arrived there."""
        assert await asyncio.wait_for(self._said.readline(), 60) == b"taken\n"


async def test_requests_under_way_end_and_go_elsewhere_if_they_may() -> None:
    routes = [route("e", "/f", {"b": 1}, methods=("GET", "POST")), route("s", "/hold", {"s": 1})]
    with hosts(1) as (host,):
        async with (
            SilentReplica("b#far", host).running() as far,
            replicas("b#near", "s#slow") as (near, slow),
            ingress(table(routes, backend("b", far), backend("s", slow))) as (keeper, client),
        ):
            waiting = asyncio.create_task(client.get("/hold", timeout=120))
            asked = []
            for method in ("GET", "POST"):
                asked.append(asyncio.create_task(client.request(method, "/f", timeout=120)))
                await far.wait_until_taken()
            await keeper.apply(table(routes, backend("b", far, near), backend("s", slow)))
            host.cut_off()
            # Their limit would be 600 s.
            assert [(await one).status_code for one in asked] == [200, 502]

            # One that is only slow has waited as long, and is waited for.
            await slow.is_holding.wait()
            slow.release.set()
            assert (await waiting).status_code == 200
