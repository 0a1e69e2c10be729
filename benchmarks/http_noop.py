"""HTTP requests/s of a no-op backend, beside the bare ASGI application behind the same HAProxy.

One HAProxy, with Tagtrail's whole configuration, routes to replicas and to a bare ASGI application
under the same uvicorn in a Ray actor of its own: what differs is the replica.

    python -m benchmarks.http_noop [--seconds 3] [--rounds 5] [--json]
"""

from __future__ import annotations

import tempfile

import ray

import serve
from benchmarks.harness import Figure, free_port, run_benchmark, run_rounds
from benchmarks.load import load
from serve.ids import NAMESPACE
from serve.ingress.keeper import IngressKeeper
from serve.ingress.locate import find_haproxy
from serve.ingress.records import IngressSettings
from serve.ingress_token import make_ingress_token
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.replica.server import HTTPServer
from serve.traffic import TrafficPolicy

BARE = "bare ASGI application"


async def bare_app(scope, receive, send):
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


@ray.remote(num_cpus=1)
class BareServer:
    """The bare application in an actor, as a replica is one."""

    async def start(self, token: str) -> int:
        self._server = HTTPServer(bare_app, token)
        return await self._server.listen("127.0.0.1")


async def noop(request):
    return b""


def blocking_noop(request):
    return b""


class ASGINoop:
    """The bare application as a backend of its own."""

    async def __call__(self, scope, receive, send):
        await bare_app(scope, receive, send)


def deploy() -> dict[str, ReplicaAddress]:
    """The backends, by the name of what is measured."""
    backends = {
        "async backend": noop,
        "blocking backend": blocking_noop,
        "ASGI backend": ASGINoop(),
    }
    for name, target in backends.items():
        serve.create_backend(name, target, config={"max_concurrent_queries": 100})
    replicas = serve.api._get_client().status().observed.replicas.values()
    return {view.backend_tag: view.address for view in replicas if view.address is not None}


def make_table(addresses: dict[str, ReplicaAddress]) -> IngressTable:
    """One route and one backend each."""
    routes, backends = [], []
    for index, (name, address) in enumerate(addresses.items()):
        policy = TrafficPolicy.of({name: 1.0})
        routes.append(IngressRoute(name, f"/{index}", ("GET",), False, policy))
        backends.append(BackendTargets(name, (address,), max_concurrent_queries=100))
    return IngressTable(tuple(routes), tuple(backends))


async def measure(port: int, names: list[str], seconds: float, rounds: int) -> list[Figure]:
    """All rounds."""

    def of(index: int, name: str):
        return lambda in_flight: load(name, port, f"/{index}", in_flight, seconds)

    return await run_rounds([of(i, name) for i, name in enumerate(names)], [1, 32], rounds)


async def collect(seconds: float, rounds: int) -> list[Figure]:
    bare = BareServer.remote()
    client = serve.api._get_client()
    token = make_ingress_token(
        await ray.get_actor(client.controller_name, namespace=NAMESPACE).secret.remote()
    )
    bare_port = await bare.start.remote(token)
    addresses = {BARE: ReplicaAddress("bare#server", "", "", "127.0.0.1", bare_port, 0)} | deploy()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tt") as folder:
        settings = IngressSettings("127.0.0.1", port, folder, token=token)
        keeper = IngressKeeper(settings, find_haproxy())
        await keeper.start(make_table(addresses))
        try:
            return await measure(port, list(addresses), seconds, rounds)
        finally:
            await keeper.stop(1)


if __name__ == "__main__":
    run_benchmark(__doc__, BARE, collect)
