"""What it takes to get from one table to the next: nothing, runtime commands, or a reload. Pure.

Replicas that come, go or move within a backend whose policies, limits and routes stay are a matter
of the runtime socket. Everything else is in the configuration and needs a reload; so do replicas of
a node that is preferred, as each of them has a rule there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from serve.ingress.maps import all_backends
from serve.ingress.names import section_name, server_name
from serve.ingress.preference import split_by_node
from serve.records import BackendTargets, IngressTable


class ChangeKind(Enum):
    """How a change is made."""

    NOTHING = "nothing"
    RUNTIME = "runtime"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class AddServer:
    """A replica joins its backend."""

    section: str
    server: str
    host: str
    port: int
    max_connections: int


@dataclass(frozen=True, slots=True)
class SetAddress:
    """A replica was started again elsewhere."""

    section: str
    server: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """A replica leaves: no new request, those under way finish."""

    section: str
    server: str


Command: TypeAlias = AddServer | SetAddress | RemoveServer


@dataclass(frozen=True, slots=True)
class Change:
    """The way from one table to another.

    Attributes:
        kind: how.
        table: what is served afterwards: the new table, with the last servers of a backend that
            has none now.
        commands: for `ChangeKind.RUNTIME`, in the order in which to send them: additions first.
    """

    kind: ChangeKind
    table: IngressTable
    commands: tuple[Command, ...] = ()


def plan_change(old: IngressTable, new: IngressTable, preferred_node: str = "") -> Change:
    """Compare two tables.

    Args:
        old: what is served: the `table` of the change before.
        new: what shall be served.
        preferred_node: Ray's id of the node whose replicas go before others'; "" for none.
    """
    table = keep_servers(old, new)
    if table == old:
        return Change(ChangeKind.NOTHING, table)
    if _fixed_part(old, preferred_node) != _fixed_part(table, preferred_node):
        return Change(ChangeKind.RELOAD, table)
    before = {backend.backend_tag: backend for backend in old.backends}
    commands: list[Command] = []
    for backend in table.backends:
        commands += _compare(before[backend.backend_tag], backend)
    commands.sort(key=lambda command: isinstance(command, RemoveServer))
    return Change(ChangeKind.RUNTIME if commands else ChangeKind.NOTHING, table, tuple(commands))


def keep_servers(old: IngressTable, new: IngressTable) -> IngressTable:
    """The new table; a backend without replicas keeps its last ones: requests wait in retries."""
    last = {backend.backend_tag: backend.replicas for backend in old.backends}
    backends = tuple(
        dataclasses.replace(backend, replicas=last.get(backend.backend_tag, ()))
        if not backend.replicas
        else backend
        for backend in all_backends(new)
    )
    return dataclasses.replace(new, backends=backends)


def leave_unreachable(table: IngressTable, node_id: str) -> IngressTable:
    """The table without the replicas that who is on this node can't connect to (yet)."""
    backends = tuple(
        dataclasses.replace(
            backend,
            replicas=tuple(r for r in backend.replicas if r.is_reachable_from(node_id)),
        )
        for backend in table.backends
    )
    return dataclasses.replace(table, backends=backends)


def _fixed_part(
    table: IngressTable, preferred_node: str
) -> tuple[IngressTable, tuple[tuple[str, ...], ...]]:
    """All but the replicas, and the tags of those that are preferred."""
    backends = sorted(table.backends, key=lambda backend: backend.backend_tag)
    bare = tuple(dataclasses.replace(backend, replicas=()) for backend in backends)
    preferred = tuple(
        tuple(sorted(r.replica_tag for r in split_by_node(backend.replicas, preferred_node)[0]))
        for backend in backends
    )
    return dataclasses.replace(table, backends=bare), preferred


def _compare(old: BackendTargets, new: BackendTargets) -> list[Command]:
    section = section_name(new.backend_tag)
    before = {r.replica_tag: (r.host, r.http_port) for r in old.replicas}
    after = {r.replica_tag: (r.host, r.http_port) for r in new.replicas}
    commands: list[Command] = []
    for tag, (host, port) in after.items():
        name = server_name(tag)
        if tag not in before:
            limit = max(1, new.max_concurrent_queries)
            commands.append(AddServer(section, name, host, port, limit))
        elif before[tag] != (host, port):
            commands.append(SetAddress(section, name, host, port))
    gone = (tag for tag in before if tag not in after)
    return [*commands, *(RemoveServer(section, server_name(tag)) for tag in gone)]
