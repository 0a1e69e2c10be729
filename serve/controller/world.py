"""Where what the controller sees is kept and changed; who waits for a change is woken."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from serve.controller.health import stood_still_s
from serve.controller.observed import Failure, IngressView, Observed, Phase, ReplicaView


class World:
    """Mutable holder of the frozen views. Every change wakes who waits."""

    def __init__(self) -> None:
        self._replicas: dict[str, ReplicaView] = {}
        self._ingresses: dict[str, IngressView] = {}
        self._failures: dict[str, Failure] = {}
        self._node_ids: tuple[str, ...] = ()
        self._stepped_at = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def observed(self) -> Observed:
        """The world as it is now."""
        return Observed(
            dict(self._replicas), dict(self._ingresses), dict(self._failures), self._node_ids
        )

    def replica(self, tag: str) -> ReplicaView | None:
        """One replica's view, or None."""
        return self._replicas.get(tag)

    def add_replica(self, tag: str, backend_tag: str) -> None:
        """A replica is being started."""
        view = ReplicaView(tag, backend_tag, Phase.STARTING, time.monotonic())
        self._replicas[tag] = view
        self.wake()

    def change_replica(self, tag: str, **changes: Any) -> None:
        """Replace fields of a replica's view; a new phase begins now. Unknown tag: nothing."""
        view = self._replicas.get(tag)
        if view is None:
            return
        changed = replace(view, **changes)
        now = time.monotonic()
        if changed.phase is not view.phase:
            changed = replace(changed, since=now)
        if changed.phase is not view.phase or (view.is_reconfiguring > changed.is_reconfiguring):
            changed = replace(changed, heard_at=now, asked_at=None)  # it lives
        self._replicas[tag] = changed
        if changes.get("phase") is Phase.RUNNING:
            self._failures.pop(view.backend_tag, None)
        self.wake()

    def ask_replica(self, tag: str) -> float:
        """A replica is asked for a sign of life; when. Wakes nobody, as it happens all the time."""
        now = time.monotonic()
        view = self._replicas.get(tag)
        if view is not None:
            self._replicas[tag] = replace(view, asked_at=now, is_asked_busy=view.is_reconfiguring)
        return now

    def hear_replica(self, tag: str, asked_at: float) -> None:
        """A replica has answered what it was asked then. Wakes nobody."""
        view = self._replicas.get(tag)
        if view is not None and view.asked_at is not None and view.asked_at >= asked_at:
            self._replicas[tag] = replace(view, heard_at=time.monotonic(), asked_at=None)

    def begin_step(self, now: float) -> None:
        """The control loop looks at the world. While it did not, no replica owed it an answer."""
        pause_s = stood_still_s(self._stepped_at, now)
        self._stepped_at = now
        for tag, view in self._replicas.items():
            if pause_s and view.asked_at is not None:
                self._replicas[tag] = replace(view, asked_at=view.asked_at + pause_s)

    def drop_replica(self, tag: str) -> None:
        """A replica is gone."""
        self._replicas.pop(tag, None)
        self.wake()

    def note_failure(self, backend_tag: str, message: str) -> None:
        """A replica of the backend did not come up."""
        count = self._failures[backend_tag].count if backend_tag in self._failures else 0
        self._failures[backend_tag] = Failure(count + 1, time.monotonic(), message)
        self.wake()

    def clear_failure(self, backend_tag: str) -> None:
        """Forget a backend's failures: it has changed, so another try is due at once."""
        self._failures.pop(backend_tag, None)

    def forget_failures(self, kept: Collection[str]) -> None:
        """Forget those of all backends but these."""
        self._failures = {tag: failure for tag, failure in self._failures.items() if tag in kept}

    def set_ingress(self, view: IngressView) -> None:
        """An ingress is as this view says."""
        self._ingresses[view.node_id] = view
        self.wake()

    def drop_ingress(self, node_id: str) -> None:
        """An ingress is gone."""
        self._ingresses.pop(node_id, None)
        self.wake()

    def set_nodes(self, node_ids: tuple[str, ...]) -> None:
        """These nodes are alive."""
        if node_ids != self._node_ids:
            self._node_ids = node_ids
            self.wake()

    def wake(self) -> None:
        """Wake everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        """Return at the next change, or after `timeout_s`."""
        with contextlib.suppress(asyncio.TimeoutError):  # the caller looks at the world anyway
            await asyncio.wait_for(self._changed.wait(), timeout_s)
