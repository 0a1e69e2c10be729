"""The replicas that an ingress has had: who is meant by HAProxy's server names, who lives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from serve.ingress.names import server_name
from serve.records import ReplicaAddress

REMEMBERED = 10_000
"""So many are known by name; the ones that were seen first are forgotten first."""

ASK_S = 2.0
"""Longest time for a replica's host to say whether its port is open, seconds."""


class Replicas:
    """One for each ingress."""

    def __init__(self) -> None:
        self._known: dict[str, ReplicaAddress] = {}

    def see(self, addresses: Iterable[ReplicaAddress]) -> None:
        """Remember these."""
        for address in addresses:
            self._known[server_name(address.replica_tag)] = address
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def tag_of(self, server: str) -> str:
        """Tag of the replica behind a server's name; "" if it is not known."""
        address = self._known.get(server)
        return "" if address is None else address.replica_tag

    async def is_alive(self, server: str) -> bool:
        """Whether a replica's port is open: a process that ended has none."""
        address = self._known.get(server)
        if address is None:
            return False
        try:
            _, writer = await asyncio.wait_for(
                asyncio.open_connection(address.host, address.http_port), ASK_S
            )
        except (OSError, asyncio.TimeoutError):
            return False
        writer.close()
        return True
