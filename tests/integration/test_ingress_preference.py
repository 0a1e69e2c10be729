"""An ingress that prefers the replicas of its own node, with a real HAProxy."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx

from serve.ingress.plan import ChangeKind
from tests.integration.test_ingress_stage import (
    Replica,
    backend,
    ingress,
    replicas,
    route,
    table,
    until,
)

HERE = "here"
ROUTES = [route("e", "/f", {"b": 1}), route("held", "/hold", {"b": 1})]
NAMES = ("b#one@here", "b#two@here", "b#far@there")


async def who(client: httpx.AsyncClient, count: int = 1) -> Counter[str]:
    """Which replicas answered, one request after another."""
    return Counter([(await client.get("/f")).json()["replica"] for _ in range(count)])


async def everybody(client: httpx.AsyncClient) -> set[str]:
    """All that answer, each of them more than now and then: one in six of sixty requests.

    Not their very turns: HAProxy counts a request as under way for a moment after its client has
    the answer, and gives the next one elsewhere then.
    """
    answered = await who(client, 60)
    assert min(answered.values()) >= 10, answered
    return set(answered)


class Holding:
    """Requests that replicas hold until they are released."""

    def __init__(self, client: httpx.AsyncClient, *members: Replica) -> None:
        self._client = client
        self._members = members
        self._tasks: list[asyncio.Task[httpx.Response]] = []

    async def add(self, count: int) -> list[int]:
        """Send some more, one after another; how many each replica holds then."""
        for _ in range(count):
            self._tasks.append(asyncio.create_task(self._client.get("/hold")))
            await until(self._all_are_held)
        return [member.held for member in self._members]

    async def _all_are_held(self) -> bool:
        return sum(member.held for member in self._members) == len(self._tasks)

    async def end(self) -> None:
        for member in self._members:
            member.release.set()
        for task in self._tasks:
            assert (await task).status_code == 200


async def test_idle_replicas_of_the_node_take_turns_and_others_get_nothing() -> None:
    async with (
        replicas(*NAMES) as members,
        ingress(table(ROUTES, backend("b", *members)), HERE) as (_, client),
    ):
        assert await everybody(client) == {"b#one", "b#two"}


async def test_without_a_preference_all_nodes_are_alike() -> None:
    async with (
        replicas(*NAMES) as members,
        ingress(table(ROUTES, backend("b", *members))) as (_, client),
    ):
        assert await everybody(client) == {"b#one", "b#two", "b#far"}


async def test_an_idle_replica_of_another_node_goes_before_a_busy_one_of_this_node() -> None:
    async with (
        replicas(*NAMES) as members,
        ingress(table(ROUTES, backend("b", *members)), HERE) as (_, client),
    ):
        holding = Holding(client, *members)
        assert await holding.add(2) == [1, 1, 0]
        assert await holding.add(1) == [1, 1, 1]
        # From here on one that the other node has under way counts as four of this node's.
        assert await holding.add(8) == [5, 5, 1]
        await holding.end()


async def test_a_full_node_hands_on_and_the_queue_is_one_for_all() -> None:
    async with (
        replicas(*NAMES) as members,
        ingress(table(ROUTES, backend("b", *members, max_concurrent_queries=2)), HERE) as (
            keeper,
            client,
        ),
    ):
        holding = Holding(client, *members)
        assert await holding.add(6) == [2, 2, 2]
        waiting = asyncio.create_task(client.get("/f"))

        async def is_queued() -> bool:
            return sum((await keeper.queue_lengths()).values()) > 0

        await until(is_queued)
        members[2].release.set()  # the other node's is free first: it takes what waits
        assert (await waiting).json()["replica"] == "b#far"
        await holding.end()


async def test_a_dead_replica_of_the_node_costs_no_request() -> None:
    async with (
        replicas(*NAMES) as members,
        ingress(table(ROUTES, backend("b", *members)), HERE) as (_, client),
    ):
        await members[0].stop()
        assert (await who(client, 20)).keys() <= {"b#two", "b#far"}
        await members[1].stop()
        assert await who(client, 10) == {"b#far": 10}
        await members[0].start()
        await members[1].start()


async def test_replicas_that_come_and_go_while_it_serves() -> None:
    async with (
        replicas(*NAMES, "b#new@here", "b#out@there") as members,
        ingress(table(ROUTES, backend("b", *members[2:3])), HERE) as (keeper, client),
    ):
        one, two, far, new, out = members
        assert await who(client, 4) == {"b#far": 4}
        assert await keeper.apply(table(ROUTES, backend("b", far, out))) is ChangeKind.RUNTIME
        assert await keeper.apply(table(ROUTES, backend("b", far, new, out))) is ChangeKind.RELOAD
        assert (await who(client, 6)).keys() == {"b#new"}
        two_of_here = table(ROUTES, backend("b", far, one, two, out))
        assert await keeper.apply(two_of_here) is ChangeKind.RELOAD
        assert await everybody(client) == {"b#one", "b#two"}
        assert await keeper.apply(table(ROUTES, backend("b", far, out))) is ChangeKind.RELOAD
        assert await everybody(client) == {"b#far", "b#out"}
