"""Starts the programs that are on this machine with the files of `deploy/`, watches, stops them.

What is to run is decided in choice.py, how in services.py; processes are process.py's.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from observability.settings import ray_folder
from observability.stack import process
from observability.stack.choice import Choice, Missing, choose, settle_ports
from observability.stack.folder import StackFolder
from observability.stack.health import Health, health_of, wait_healthy
from observability.stack.machine import check_ports, find_programs
from observability.stack.rendering import Changes, changes_for
from observability.stack.services import BY_NAME, Service, StackError
from observability.stack.state import Started, State

START_S = 60.0
"""How long a program may take until it is healthy. Loki's own wait takes 15 s of it."""

STOP_S = 30.0
"""How long it may take to end by itself."""


class Step(Enum):
    """What happens to a program."""

    STARTING = "starting"
    RUNS_ALREADY = "runs already"
    HEALTHY = "healthy"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"
    WAS_GONE = "was gone"


Tell = Callable[[Step, Started], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `up` is asked for.

    Attributes:
        only: names of services; empty: whatever makes a whole.
        ports: name to port, where it is not the default one.
        ray_folder: folder of Ray's sessions; None: where Ray has it unless it is told otherwise.
        start_s: limit for each program.
    """

    only: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    ray_folder: Path | None = None
    start_s: float = START_S


@dataclass(frozen=True, slots=True)
class Report:
    """What runs after `up`, and what is missing."""

    started: tuple[Started, ...]
    missing: tuple[Missing, ...]


class Stack:
    """The programs that were, or are to be, started from one folder.

    Args:
        folder: with state, data and logs.
        deploy: the configuration as it comes.
        tell: hears each step.
    """

    def __init__(self, folder: Path, deploy: Path, tell: Tell) -> None:
        self._folder = StackFolder(folder)
        self._deploy = deploy
        self._tell = tell

    def up(self, wanted: Wanted) -> Report:
        """Start what is there and does not run, one after the other, and wait for each.

        Raises:
            StackError: something stands in the way, and nothing was started; or one of them did
                not get healthy, and what this call had started is stopped again.
        """
        with self._folder.locked():
            state = self._folder.load()
            running = tuple(s for s in state.started if process.is_running(s.pid, s.identity))
            found = find_programs()
            choice = choose(found, wanted.only, {started.name for started in running})
            fresh, changes = self._prepare(wanted, choice, state, running)
            start = _Start(self._folder, self._deploy, self._tell, fresh, changes, found)
            try:
                start.all(choice.services, wanted.start_s)
            except BaseException:  # Ctrl-C too: nothing is left behind half started
                start.undo()
                raise
            return Report(start.state.started, choice.missing)

    def _prepare(
        self, wanted: Wanted, choice: Choice, state: State, running: tuple[Started, ...]
    ) -> tuple[State, Changes]:
        """The state to start from, and what changes in the files. Nothing has happened yet."""
        ports = settle_ports(wanted.ports, state.ports if running else None, choice.services)
        ray = str((wanted.ray_folder or ray_folder()).absolute())
        if running:
            if wanted.ray_folder is not None and ray != state.ray_folder:
                raise StackError(
                    f"What runs reads {state.ray_folder}: {ray} can't be taken now. "
                    "First: tagtrail stack down."
                )
            ray = state.ray_folder
        names = {started.name for started in running}
        for service in choice.services:
            if service.name not in names:
                check_ports(service, ports)
        dashboards = str(self._deploy / "grafana" / "dashboards")
        return State(running, ports, ray), changes_for(ports, ray, dashboards)

    def down(self) -> list[tuple[Started, Step]]:
        """Stop all that was started, the last first. Data and logs stay.

        Raises:
            StackError: one can't be stopped; it is still known.
        """
        if not self._folder.path.is_dir():
            return []
        with self._folder.locked():
            state = self._folder.load()
            steps = []
            while state.started:
                last = state.started[-1]
                steps.append((last, _stop(last, self._tell)))
                state = State(state.started[:-1], state.ports, state.ray_folder)
                self._folder.save(state)
            return steps

    def status(self) -> list[tuple[Started, Health]]:
        """How each is that was started."""
        return [(started, health_of(started)) for started in self._folder.load().started]


class _Start:
    """The part of `up` that acts; remembers what it has started.

    Args:
        state: what runs already.
        changes: to the files.
        found: where the programs are.
    """

    def __init__(
        self,
        folder: StackFolder,
        deploy: Path,
        tell: Tell,
        state: State,
        changes: Changes,
        found: Mapping[str, Path],
    ) -> None:
        self.state = state
        self._folder = folder
        self._deploy = deploy
        self._tell = tell
        self._changes = changes
        self._found = found
        self._new: list[tuple[Started, subprocess.Popen[bytes]]] = []

    def all(self, services: Collection[Service], limit_s: float) -> None:
        """Have each of them run and be healthy."""
        running = {started.name: started for started in self.state.started}
        for service in services:
            item, child = running.get(service.name), None
            if item is None:
                item, child = self._start(service)
            else:
                self._tell(Step.RUNS_ALREADY, item)
            try:
                wait_healthy(item, child, limit_s)
            except BaseException:  # Ctrl-C too
                self._tell(Step.FAILED, item)
                raise
            self._tell(Step.HEALTHY, item)

    def undo(self) -> None:
        """Stop what was started here."""
        for new, child in reversed(self._new):
            with contextlib.suppress(StackError):  # then it stays known, and `down` says why
                _stop(new, self._tell)
                child.wait(STOP_S)
                self._keep(tuple(s for s in self.state.started if s is not new))

    def _start(self, service: Service) -> tuple[Started, subprocess.Popen[bytes]]:
        place = self._folder.place(
            service, self._found[service.name], self._deploy, self.state.ports, self._changes
        )
        command = service.command(place)
        log = self._folder.log(service)
        try:
            child = process.start(command, self._folder.data(service), log)
        except OSError as error:
            raise StackError(
                f"{service.name} can't be started: {error}. Is {command[0]} a program for this "
                f"machine? {service.program.variable} names another file."
            ) from None
        ports = self.state.ports
        new = Started(
            service.name,
            child.pid,
            process.identity_of(child.pid),
            service.address(ports),
            service.health_url(ports),
            str(log),
        )
        self._new.append((new, child))
        self._keep((*self.state.started, new))
        self._tell(Step.STARTING, new)
        return new, child

    def _keep(self, started: tuple[Started, ...]) -> None:
        in_order = sorted(started, key=lambda item: list(BY_NAME).index(item.name))
        self.state = State(tuple(in_order), self.state.ports, self.state.ray_folder)
        self._folder.save(self.state)


def _stop(started: Started, tell: Tell) -> Step:
    if not process.is_running(started.pid, started.identity):
        step = Step.WAS_GONE
    else:
        try:
            by_itself = process.stop(started.pid, started.identity, STOP_S)
        except (PermissionError, TimeoutError) as error:
            raise StackError(
                f"{started.name} (process {started.pid}) can't be stopped: {error}."
            ) from None
        step = Step.STOPPED if by_itself else Step.KILLED
    tell(step, started)
    return step
