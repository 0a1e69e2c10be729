"""Asks the processes of an instance for their metrics, all at once, within a limit."""

from __future__ import annotations

import time
from concurrent.futures import wait
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from observability.instrument.numbers import Snapshot
from serve.ids import NAMESPACE


class NumberSources:
    """The actors of an instance that have metrics. For one thread at a time, no event loop's.

    Args:
        controller_name: the instance's controller.
    """

    def __init__(self, controller_name: str) -> None:
        self._controller_name = controller_name
        self._names = [controller_name]
        self._actors: dict[str, ActorHandle] = {}
        self._last: dict[str, list[Snapshot]] = {}

    def ask(self, page_of: str, timeout_s: float) -> list[Snapshot]:
        """Their metrics as they are now; an actor that is too busy to answer has its last ones.

        Args:
            page_of: id of the node of the ingress that asks; "": everything.
            timeout_s: limit for all together, seconds.
        """
        deadline = time.monotonic() + timeout_s
        controller = self._find(self._controller_name)
        if controller is not None:
            asked = {controller.number_sources.remote(page_of): self._controller_name}
            self._names = self._answers(asked, deadline).get(self._controller_name, self._names)
        self._last = {name: self._last[name] for name in self._names if name in self._last}
        actors = {name: self._find(name) for name in self._names}
        calls = {a.numbers.remote(): name for name, a in actors.items() if a is not None}
        self._last |= self._answers(calls, deadline)
        return [snapshot for found in self._last.values() for snapshot in found]

    def _answers(self, asked: dict[Any, str], deadline: float) -> dict[str, Any]:
        """By actor name, of those that answer in time."""
        # Not ray.get: in an async actor's process Ray would warn of it, in any thread.
        futures = {reference.future(): name for reference, name in asked.items()}
        done, _ = wait(futures, max(0.0, deadline - time.monotonic()))
        answers = {}
        for future in done:
            try:
                answers[futures[future]] = future.result()
            except RayError:  # it died; it is found anew next time, if it comes back
                self._actors.pop(futures[future], None)
        return answers

    def _find(self, name: str) -> ActorHandle | None:
        actor = self._actors.get(name)
        if actor is None:
            try:
                actor = self._actors[name] = ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:  # it is not there yet, or no more
                return None
        return actor
