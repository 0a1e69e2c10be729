"""The controller's Ray actor: holds the goal, answers the API, and runs the control loop.

A call that changes the goal writes it to the checkpoint before anything else happens; a controller
that died comes back with it and adopts what still runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import ray

from observability.fields import Component
from observability.instrument.capture import Capture, install
from observability.instrument.export import start_export, stop_export
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.numbers import Snapshot, process_numbers
from observability.instrument.segments import SegmentWriter
from observability.instrument.supervision import (
    in_thread,
    keep_running,
    process_troubles,
    run_all,
)
from serve.config import BackendConfig, DeploymentMode
from serve.controller import goal as goals
from serve.controller import ledger
from serve.controller.broadcast import Broadcast, Refusal, Stamp, Update
from serve.controller.checkpoint import Checkpoint, CheckpointError
from serve.controller.discovery import MetricsTargets, reachable_pages
from serve.controller.executor import Executor
from serve.controller.figures import controller_families, number_sources
from serve.controller.followers import Followers
from serve.controller.goal import BackendGoal, Change, Goal, NewEndpoint, Outcome
from serve.controller.observed import Failure, Observed, Phase
from serve.controller.publish import publish
from serve.controller.reconcile import is_settled, reconcile, replicas_left, replicas_of
from serve.controller.world import World
from serve.errors import BackendStartError, RayServeException
from serve.session import segment_folder, session_folder
from serve.status import Status

logger = logging.getLogger("ray.serve")

ENDING = "end of the controller"
LOOP = "control loop"
LOOP_PERIOD_S = 1.0
ADOPTION_S = 10.0
INGRESS_TIMEOUT_S = 60.0
UNDO_S = 5.0
STOP_MARGIN_S = 30.0


class Controller:
    """The controller of one instance.

    Args:
        name: its actor name.
        initial: the goal of a new instance; a checkpoint that exists goes before it.
    """

    async def __init__(self, name: str, initial: Goal) -> None:  # type: ignore[misc] # Ray awaits it
        self._name = name
        self._node_id: str = ray.get_runtime_context().get_node_id()
        self._checkpoint = Checkpoint(name)
        stored = self._read_checkpoint()
        self._goal = initial if stored is None else stored
        self._capture = _capture_records(self._goal.logging)
        if stored is None:
            self._checkpoint.write(initial)
        self._world = World()
        self._broadcast = Broadcast()
        self._followers = Followers(self._broadcast, self._world)
        self._executor = Executor(
            name,
            self._world,
            lambda: self._goal,
            self._checkpoint.definition,
            self._until_ingresses_applied,
            self._followers.forget,
        )
        for backend in self._goal.backends.values():
            self._executor.remember_config(backend.tag, backend.config)
        self._loop_ms = 0.0
        process_numbers.join(
            lambda: controller_families(self._world.observed, self._loop_ms, *self._capture.counts)
        )
        start_export()
        self._targets = MetricsTargets(session_folder(), name)
        self._is_ready = asyncio.Event()
        self._is_stopping = False
        self._loop_task = asyncio.get_running_loop().create_task(keep_running(LOOP, self._run))

    # What ingresses, handles and replicas call.

    async def listen(
        self,
        listener: str,
        applied: dict[str, Stamp],
        timeout_s: float,
        refused: dict[str, Refusal],
    ) -> Update:
        """Long poll; see Broadcast.listen."""
        await self._is_ready.wait()
        return await self._broadcast.listen(listener, applied, timeout_s, refused)

    async def replica_placed(self, replica_tag: str) -> None:
        """A replica has its process and begins with its constructor."""
        view = self._world.replica(replica_tag)
        if view is not None:  # the constructor's time counts from here
            self._world.change_replica(
                replica_tag, is_placed=True, since=time.monotonic(), starts=view.starts + 1
            )

    async def secret(self) -> bytes:
        """The secret that opens the replicas' sockets; only Ray's own users can ask."""
        return self._goal.secret

    # What the API calls. Ray sends a call again when the controller died meanwhile: see `ledger`.

    async def wait_ingresses(self) -> list[str]:
        """Where the ingresses listen, once they do. ValueError when one can't."""
        deadline = time.monotonic() + INGRESS_TIMEOUT_S
        while True:
            observed = self._world.observed
            for ingress in observed.ingresses.values():
                if ingress.error:
                    raise ValueError(ingress.error)
            ready = [view.address for view in observed.ingresses.values() if view.address]
            if self._is_ready.is_set() and len(ready) == self._wanted_ingresses(observed):
                return ready
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"HTTP proxies not available after {INGRESS_TIMEOUT_S:g} s: {len(ready)} of "
                    f"{self._wanted_ingresses(observed)} listen. The controller's log says why."
                )
            await self._world.changed(1.0)

    async def create_backend(self, backend: BackendGoal, definition: bytes) -> None:
        """Register a backend; returns once all its replicas run, or undoes it and raises."""
        await self._is_ready.wait()
        started = time.monotonic()
        tag, change_id = backend.tag, backend.change_id
        if not self._knows(change_id):
            goals.check_config(tag, backend.config, backend.traits)
            next_goal = goals.create_backend(self._goal, backend)
            self._checkpoint.keep(backend.digest, definition)
            self._commit(ledger.begun(next_goal, change_id, tag))
            self._world.clear_failure(tag)
        await self._settle(change_id, started)

    async def update_backend_config(self, tag: str, change: BackendConfig, change_id: str) -> None:
        """Change a backend's configuration; returns once it holds, or undoes it and raises."""
        await self._is_ready.wait()
        started = time.monotonic()
        if not self._knows(change_id):
            next_goal = goals.update_backend(self._goal, tag, change)
            before = self._goal.backends[tag]
            self._commit(ledger.begun(next_goal, change_id, tag, before))
            self._world.clear_failure(tag)
        await self._settle(change_id, started)
        await self._followers.until_followed()  # ingresses hold its limits

    async def delete_backend(self, tag: str, force: bool, change_id: str) -> None:
        """Remove a backend; returns once its replicas are gone."""
        await self._is_ready.wait()
        backend = self._goal.backends.get(tag)
        config = backend.config if backend is not None else BackendConfig()
        if not self._knows(change_id):
            next_goal = goals.delete_backend(self._goal, tag)
            if force:
                config = config.merge(BackendConfig(experimental_graceful_shutdown_timeout_s=0))
            self._executor.remember_config(tag, config)
            self._commit(ledger.done(next_goal, change_id))
        grace_s = config.experimental_graceful_shutdown_timeout_s
        await self._until_gone(tag, grace_s + STOP_MARGIN_S)

    async def create_endpoint(self, endpoint: NewEndpoint) -> None:
        """Register an endpoint; returns once every ingress serves it."""
        await self._change_routes(
            endpoint.change_id,
            lambda goal: goals.create_endpoint(goal, endpoint),
            f"Registering route '{endpoint.route}' to endpoint '{endpoint.name}' with methods "
            f"{'of its backend' if endpoint.methods is None else list(endpoint.methods)}.",
        )

    async def delete_endpoint(self, name: str, change_id: str) -> None:
        """Remove an endpoint; returns once no ingress serves it."""
        await self._change_routes(
            change_id,
            lambda goal: goals.delete_endpoint(goal, name),
            f"Deleting endpoint '{name}'" if name in self._goal.endpoints else "",
        )

    async def set_traffic(self, name: str, weights: dict[str, float], change_id: str) -> None:
        """Replace an endpoint's policy; returns once every ingress follows it."""
        await self._change_routes(
            change_id,
            lambda goal: goals.set_traffic(goal, name, weights),
            f"Setting traffic for endpoint '{name}' to '{weights}'.",
        )

    async def shadow_traffic(self, name: str, tag: str, proportion: float, change_id: str) -> None:
        """Copy a share of an endpoint's requests to a backend, once every ingress does."""
        await self._change_routes(
            change_id,
            lambda goal: goals.shadow_traffic(goal, name, tag, proportion),
            f"Shadowing '{proportion}' of traffic to endpoint '{name}' to backend '{tag}'.",
        )

    async def numbers(self) -> list[Snapshot]:
        """This process's metrics as they are now."""
        return process_numbers.snapshot()

    async def number_sources(self, page_of: str) -> list[str]:
        """Names of the actors whose metrics belong together; see `figures.number_sources`."""
        return number_sources(self._name, self._goal, self._world.observed, page_of)

    async def status(self) -> Status:
        """The goal, without what nobody else may know, and the world as they are now."""
        observed = self._followers.describe(self._world.observed)
        trouble = process_troubles.describe()
        goal = goals.without_secrets(self._goal)
        return Status(goal, observed, os.getpid(), trouble, time.monotonic())

    async def shutdown(self) -> None:
        """End every replica and ingress and forget the goal. Who asked then ends this actor."""
        self._is_stopping = True
        self._checkpoint.delete()
        self._targets.remove()
        try:
            await self._executor.stop_everything()
        finally:
            self._loop_task.cancel()
            await run_all(ENDING, in_thread(stop_export), in_thread(self._capture.end))

    def _read_checkpoint(self) -> Goal | None:
        try:
            return self._checkpoint.read()
        except CheckpointError as error:
            if ray.get_runtime_context().was_current_actor_reconstructed:
                raise
            logger.warning("%s It is left behind by an instance that is gone.", error)
            return None

    # The control loop.

    async def _run(self) -> None:
        while True:
            begun = time.perf_counter()
            try:
                await self._refresh_nodes()
                if not self._is_ready.is_set():
                    await self._adopt()
                    self._is_ready.set()
                self._step()
                process_troubles.clear(LOOP)
            except Exception as error:  # noqa: BLE001 - the loop must outlive any one step
                process_troubles.tell(LOOP, error, f"Its next step is in {LOOP_PERIOD_S:g} s.")
            self._loop_ms = (time.perf_counter() - begun) * 1000
            await self._world.changed(LOOP_PERIOD_S)

    def _step(self) -> None:
        if self._is_stopping:
            return
        now = time.monotonic()
        self._world.begin_step(now)
        for action in reconcile(self._goal, self._world.observed, now):
            self._executor.perform(action)
        self._executor.forget_gone()
        self._publish()
        self._targets.tell(reachable_pages(self._world.observed.ingresses.values(), self._node_id))

    async def _adopt(self) -> None:
        """Take over what runs; until it is known, nothing is published: handles keep theirs.

        Ingresses are waited for too: a call must not return before one that serves has applied it.
        """
        tags = self._executor.adopt()
        deadline = time.monotonic() + ADOPTION_S
        while time.monotonic() < deadline:
            observed = self._world.observed
            views = [observed.replicas[tag] for tag in tags if tag in observed.replicas]
            ingresses = observed.ingresses.values()
            if all(view.phase is not Phase.STARTING for view in views) and all(
                view.address or view.error for view in ingresses
            ):
                return
            await self._world.changed(0.5)

    async def _refresh_nodes(self) -> None:
        nodes = await asyncio.to_thread(ray.nodes)
        self._world.set_nodes(tuple(sorted(node["NodeID"] for node in nodes if node["Alive"])))

    def _commit(self, next_goal: Goal) -> None:
        if next_goal is self._goal:
            return
        self._checkpoint.write(next_goal)
        self._goal = next_goal
        for backend in next_goal.backends.values():
            self._executor.remember_config(backend.tag, backend.config)
        self._publish()
        self._world.wake()

    def _knows(self, change_id: str) -> bool:
        """Whether a call was sent before. BackendStartError: it was, and failed."""
        change = self._goal.changes.get(change_id)
        if change is not None and change.outcome is Outcome.FAILED:
            raise BackendStartError(change.error)
        return change is not None

    async def _settle(self, change_id: str, started: float) -> None:
        """Wait until a backend follows a change; take the change back when it can't."""
        change = self._goal.changes[change_id]
        if change.outcome is Outcome.DONE:
            return
        try:
            await self._until_settled(change, started)
        except (BackendStartError, asyncio.CancelledError) as error:
            self._commit(ledger.failed(self._goal, change_id, str(error)))
            if change.before is None:
                await self._until_gone(change.tag, UNDO_S)
            else:
                self._world.clear_failure(change.tag)  # it was the change's, not the backend's
            raise
        next_goal = ledger.done(self._goal, change_id)
        if any(view.is_asgi for view in replicas_of(self._world.observed, change.tag)):
            next_goal = goals.mark_asgi(next_goal, change.tag)
        self._commit(next_goal)

    async def _change_routes(
        self, change_id: str, change: Callable[[Goal], Goal], told: str
    ) -> None:
        await self._is_ready.wait()
        if not self._knows(change_id):
            next_goal = change(self._goal)
            if told:
                logger.info("%s", told)
            self._commit(ledger.done(next_goal, change_id))
        await self._followers.until_followed()

    def _publish(self) -> None:
        self._broadcast.publish(publish(self._goal, self._world.observed))

    async def _until_ingresses_applied(self, timeout_s: float) -> bool:
        self._publish()
        return await self._followers.until_applied(timeout_s)

    async def _until_settled(self, change: Change, started: float) -> None:
        """Wait until a backend is as its goal says. BackendStartError when it can't be."""
        tag = change.tag
        while True:
            if not ledger.is_still(self._goal, change):
                raise RayServeException(f"Backend '{tag}' was deleted while it was being changed.")
            backend = self._goal.backends[tag]
            failure = self._world.observed.failures.get(tag)
            if failure is not None and failure.at >= started:
                raise _start_error(tag, failure)
            if is_settled(backend, self._world.observed):
                return
            await self._world.changed(LOOP_PERIOD_S)

    async def _until_gone(self, tag: str, timeout_s: float) -> None:
        """Wait until a backend's replicas are gone, or another call has made it anew."""
        await self._until(
            lambda: tag in self._goal.backends or not replicas_left(self._world.observed, tag),
            timeout_s,
        )

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds() and time.monotonic() < deadline:
            await self._world.changed(LOOP_PERIOD_S)

    def _wanted_ingresses(self, observed: Observed) -> int:
        location = self._goal.http.location
        if location is DeploymentMode.NoServer:
            return 0
        return 1 if location is DeploymentMode.HeadOnly else len(observed.node_ids)


def _capture_records(config: LoggingConfig) -> Capture:
    static = {
        "component": Component.CONTROLLER.value,
        "node": ray.util.get_node_ip_address(),
        "pid": os.getpid(),
    }
    writer = SegmentWriter(segment_folder(), "controller", config.retention)
    return install(writer, static, config, streams=False)


def _start_error(tag: str, failure: Failure) -> BackendStartError:
    return BackendStartError(
        f"Backend '{tag}' could not be brought up, and the change was taken back. {failure.message}"
    )
