"""A connection to a replica is tried again whatever its first attempt ran into."""

from __future__ import annotations

import asyncio

from observability.instrument.supervision import process_troubles
from serve.errors import ReplicaUnavailableError
from serve.handle.replicas import CONNECTING, Replicas
from serve.records import BackendTargets, ReplicaAddress
from serve.transport.client import Connection


async def test_an_attempt_that_fails_in_an_unforeseen_way_is_told_and_not_the_last_one() -> None:
    attempts = 0
    tried_again = asyncio.Event()

    async def connect(address: ReplicaAddress) -> Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ZeroDivisionError("unforeseen")
        tried_again.set()
        raise ReplicaUnavailableError("not yet")

    address = ReplicaAddress("b#a", "actor", "node", "127.0.0.1", 1, 2)
    replicas = Replicas(BackendTargets("b", (address,)), connect, lambda call: None)
    await asyncio.wait_for(tried_again.wait(), 60)
    assert "unforeseen" in process_troubles.describe()
    replicas.close()
    process_troubles.clear(CONNECTING)
