"""Which services are started, which are missing, on which ports; runner.py does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from observability.stack.services import (
    AGENTS_OF,
    BY_NAME,
    SERVICES,
    Role,
    Service,
    StackError,
    default_ports,
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A program that would be started if it were on this machine.

    Attributes:
        name: of the program.
        role: what it would be there for.
        how_to_get: a sentence.
    """

    name: str
    role: str
    how_to_get: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to run, in the order of start, and what is missing.

    Attributes:
        services: one of each role, or those that were asked for.
        missing: of a role that nobody plays, all who could.
    """

    services: tuple[Service, ...]
    missing: tuple[Missing, ...]


def choose(found: Collection[str], only: Collection[str], running: Collection[str]) -> Choice:
    """Choose: a log store, an agent that sends to it, and all others that are there.

    Args:
        found: names of the programs that are on this machine.
        only: names asked for; empty: what makes a whole.
        running: names of those that run already: these are kept rather than a likelier one.

    Raises:
        StackError: a name that is none, or one that was asked for and is not there.
    """
    there = {*found, *running}
    if only:
        return Choice(_asked(there, only), ())
    chosen: list[Service] = []
    missing: list[Missing] = []
    store = ""
    for role in Role:
        able = [service for service in SERVICES if service.role is role]
        if role is Role.AGENT and store:
            able = [service for service in able if service.name in AGENTS_OF[store]]
        present = [service for service in able if service.name in there]
        if role is Role.AGENT and not store:
            present = []  # there is nobody to send to
        if present:
            pick = next((s for s in present if s.name in running), present[0])
            chosen.append(pick)
            store = pick.name if role is Role.STORE else store
        else:
            missing += [
                Missing(service.name, role.value, service.program.how_to_get)
                for service in able
                if service.name not in there
            ]
    return Choice(tuple(chosen), tuple(missing))


def _asked(there: Collection[str], only: Collection[str]) -> tuple[Service, ...]:
    unknown = sorted(set(only) - set(BY_NAME))
    if unknown:
        raise StackError(f"No service is called {unknown[0]!r}. There are: {', '.join(BY_NAME)}.")
    absent = [service for service in SERVICES if service.name in only and service.name not in there]
    if absent:
        program = absent[0].program
        raise StackError(f"{program.name} is not on this machine. {program.how_to_get}")
    return tuple(service for service in SERVICES if service.name in only)


def settle_ports(
    given: Mapping[str, int], kept: Mapping[str, int] | None, services: Collection[Service]
) -> dict[str, int]:
    """The port of every name.

    Args:
        given: what was asked for.
        kept: what was settled before, if something of it still runs: its files speak of these.
        services: those that are to run.

    Raises:
        StackError: a name that is none, a port that differs from what runs, or one given twice.
    """
    ports = default_ports()
    for name, port in given.items():
        if name not in ports:
            raise StackError(f"No port is called {name!r}. There are: {', '.join(ports)}.")
        if kept is not None and kept.get(name, port) != port:
            raise StackError(
                f"What runs was started with port {kept[name]} for {name}, and looks for it there: "
                f"{port} can't be taken now. First: tagtrail stack down."
            )
    ports |= {**(kept or {}), **given}
    users: dict[int, str] = {}
    for name in (name for service in services for name in service.ports):
        other = users.setdefault(ports[name], name)
        if other != name:
            raise StackError(
                f"Port {ports[name]} can't be both {other}'s and {name}'s. "
                f"Give another one: --port {name}=PORT."
            )
    return ports
