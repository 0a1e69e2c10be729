"""The hands of the controller: performs actions with Ray and reports what it sees to the World.

Each replica and each ingress has one task that tends it: it waits until the actor is ready, then
for its process to end, then for Ray to have started it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from observability.instrument.supervision import keep_running
from serve.actor_options import ingress_options, replica_options
from serve.config import BackendConfig
from serve.controller.goal import BackendGoal, Goal
from serve.controller.health import CheckReplica, RestartReplica
from serve.controller.observed import IngressView, Phase
from serve.controller.reconcile import (
    Action,
    ExposeReplica,
    FailReplica,
    ReconfigureReplica,
    StartIngress,
    StartReplica,
    StopIngress,
    StopReplica,
)
from serve.controller.world import World
from serve.ids import (
    NAMESPACE,
    ingress_actor_name,
    make_replica_tag,
    parse_actor_name,
    replica_actor_name,
)
from serve.ingress_token import make_ingress_token
from serve.replica.spec import Failed, Ready, ReplicaSpec

logger = logging.getLogger("ray.serve")

TENDING = "tending of an actor"
ACTION = "action of the controller"

INGRESS_ACK_S = 5.0
STOP_S = 10.0


class Executor:
    """Performs actions.

    Args:
        controller_name: names of actors begin with it.
        world: where what is seen goes.
        goal: gives the present goal.
        definition: gives a packed definition by its digest.
        until_ingresses_applied: waits until every ingress has applied what was published last.
        on_ingress_gone: called with a node id when its ingress is gone.
    """

    def __init__(
        self,
        controller_name: str,
        world: World,
        goal: Callable[[], Goal],
        definition: Callable[[str], bytes],
        until_ingresses_applied: Callable[[float], Coroutine[Any, Any, bool]],
        on_ingress_gone: Callable[[str], None],
    ) -> None:
        self._controller_name = controller_name
        self._world = world
        self._goal = goal
        self._definition = definition
        self._until_ingresses_applied = until_ingresses_applied
        self._on_ingress_gone = on_ingress_gone
        self._actors: dict[str, ActorHandle] = {}
        self._configs: dict[str, BackendConfig] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: dict[str, asyncio.Task[None]] = {}

    def perform(self, action: Action) -> None:
        """Begin one action; what comes of it is seen in the World."""
        if isinstance(action, StartReplica):
            self._start_replica(self._goal().backends[action.backend_tag])
        elif isinstance(action, StopReplica):
            self._world.change_replica(action.replica_tag, phase=Phase.STOPPING)
            self._act(functools.partial(self._stop_replica, action.replica_tag))
        elif isinstance(action, ReconfigureReplica):
            self._begin_check(action.replica_tag)  # what is asked later may take far longer
            self._world.change_replica(action.replica_tag, is_reconfiguring=True)
            self._act(functools.partial(self._reconfigure, action.replica_tag))
        elif isinstance(action, FailReplica):
            self._fail_replica(action.replica_tag, action.message)
        elif isinstance(action, CheckReplica):
            self._begin_check(action.replica_tag)
        elif isinstance(action, RestartReplica):
            self._begin_restart(action.replica_tag, action.message)
        elif isinstance(action, StartIngress):
            self._start_ingress(action.node_id)
        elif isinstance(action, StopIngress):
            self._act(functools.partial(self.stop_ingress, action.node_id))
        elif isinstance(action, ExposeReplica):
            self._world.change_replica(action.replica_tag, is_exposing=True)
            self._act(functools.partial(self._expose, action.replica_tag))

    def remember_config(self, backend_tag: str, config: BackendConfig) -> None:
        """How replicas of this backend are to be stopped, also after the backend left the goal."""
        self._configs[backend_tag] = config

    @property
    def known_backends(self) -> set[str]:
        """Backends whose configuration is remembered."""
        return set(self._configs)

    def forget_gone(self) -> None:
        """Forget backends that are no longer in the goal, once their replicas are gone too."""
        kept = {*self._goal().backends, *self._world.observed.backend_tags}
        self._configs = {tag: config for tag, config in self._configs.items() if tag in kept}
        self._world.forget_failures(kept)

    def adopt(self) -> list[str]:
        """Take over the actors that run already; the tags of the replicas among them."""
        tags: list[str] = []
        for entry in ray.util.list_named_actors(all_namespaces=True):
            name = parse_actor_name(entry["name"])
            if entry["namespace"] != NAMESPACE or name is None:
                continue
            if name.controller_name != self._controller_name:
                continue
            try:
                actor = ray.get_actor(entry["name"], namespace=NAMESPACE)
            except ValueError:
                continue  # it ended since it was listed
            if name.node_id:
                self._adopt_ingress(name.node_id, actor)
            else:
                self._adopt_replica(name.replica_tag, actor)
                tags.append(name.replica_tag)
        return tags

    async def stop_ingress(self, node_id: str) -> None:
        """Let an ingress end its HAProxy, then end it."""
        name = ingress_actor_name(self._controller_name, node_id)
        self._stop_tending(name)
        actor = self._actors.get(name)
        if actor is not None:
            await _quietly(actor.stop.remote(), STOP_S)
            ray.kill(actor, no_restart=True)
            self._actors.pop(name, None)  # after it: it may fail, and is done again
        self._world.drop_ingress(node_id)
        self._on_ingress_gone(node_id)

    async def stop_everything(self) -> None:
        """End all replicas and ingresses, without waiting for calls to finish."""
        ingresses = [self.stop_ingress(node_id) for node_id in self._world.observed.ingresses]
        await asyncio.gather(*ingresses)
        await asyncio.gather(*(self._end(tag) for tag in self._world.observed.replicas))

    def _start_replica(self, backend: BackendGoal) -> None:
        tag = make_replica_tag(backend.tag)
        goal = self._goal()
        spec = ReplicaSpec(
            self._controller_name,
            tag,
            backend.tag,
            self._definition(backend.digest),
            backend.traits,
            backend.config,
            backend.version,
            goal.http.middlewares,
            goal.secret,
            goal.logging,
            goal.tracing,
            self._world.observed.has_many_nodes,
            goal.preload,
            goal.http.request_timeout_s,
        )
        self._world.add_replica(tag, backend.tag)
        name = replica_actor_name(self._controller_name, tag)
        try:
            actor = (
                _replica_class(backend.traits.name)
                .options(**replica_options(name, backend.actor_options))
                .remote(spec)
            )
        except Exception as error:  # noqa: BLE001 - Ray refuses some options only here, in many ways
            self._fail_replica(
                tag,
                f"Replica '{tag}' can't be started with these ray_actor_options "
                f"({', '.join(backend.actor_options)}): {error}",
            )
            return
        self._actors[tag] = actor
        self._tend(tag, lambda: self._tend_replica(tag, actor))

    def _adopt_replica(self, tag: str, actor: ActorHandle) -> None:
        self._world.add_replica(tag, tag.rpartition("#")[0])
        self._world.change_replica(tag, is_placed=True)  # it may have said so to the one before us
        self._actors[tag] = actor
        self._tend(tag, lambda: self._tend_replica(tag, actor))

    async def _tend_replica(self, tag: str, actor: ActorHandle) -> None:
        restarts = 0
        while True:
            try:
                ready: Ready | Failed = await actor.ready.remote()
                if isinstance(ready, Failed):
                    message = f"Replica '{tag}' failed to start:\n{ready.message}"
                    self._fail_replica(tag, message)
                    return
                failed = await self._catch_up(tag, actor, ready)
            except RayError as error:
                self._fail_replica(tag, f"Replica '{tag}' failed to start: {error}")
                return
            if failed is not None:
                self._fail_replica(tag, _reconfigure_message(tag, failed))
                return
            self._world.change_replica(
                tag,
                phase=Phase.RUNNING,
                is_placed=True,
                address=ready.address,
                restarts=restarts,
                starts=0,
                is_asgi=ready.is_asgi,
                trouble="",
            )
            try:
                await self._watch(actor, functools.partial(self._world.change_replica, tag))
            except RayActorError:
                restarts += 1
                logger.warning("Replica '%s' died; Ray starts it anew.", tag)
                view = self._world.replica(tag)
                is_placed = view is not None and view.starts > 0  # its next process was quicker
                self._world.change_replica(tag, phase=Phase.RESTARTING, is_placed=is_placed)

    async def _catch_up(self, tag: str, actor: ActorHandle, ready: Ready) -> Failed | None:
        """A restarted process has the configuration it was first made with: give it today's."""
        failed: Failed | None = None
        version = ready.config_version
        view = self._world.replica(tag)
        backend = self._goal().backends.get(view.backend_tag) if view is not None else None
        if backend is not None and version != backend.version:
            failed = await actor.reconfigure.remote(backend.config, backend.version)
            version = backend.version
        self._world.change_replica(tag, config_version=version)
        return failed

    async def _reconfigure(self, tag: str) -> None:
        view = self._world.replica(tag)
        backend = self._goal().backends.get(view.backend_tag) if view is not None else None
        actor = self._actors.get(tag)
        if backend is None or actor is None:  # it is gone, or about to
            return
        try:
            failed = await actor.reconfigure.remote(backend.config, backend.version)
        except RayError:
            self._world.change_replica(tag, is_reconfiguring=False)  # _tend_replica sees to it
            return
        if failed is None:
            self._world.change_replica(tag, is_reconfiguring=False, config_version=backend.version)
            return
        self._world.note_failure(backend.tag, _reconfigure_message(tag, failed))
        await asyncio.sleep(1)  # a configuration that is not taken back is tried again
        self._world.change_replica(tag, is_reconfiguring=False)

    def _begin_check(self, tag: str) -> None:
        view = self._world.replica(tag)
        if view is not None and view.asked_at is None:
            self._act(functools.partial(self._check_replica, tag, self._world.ask_replica(tag)))

    async def _check_replica(self, tag: str, asked_at: float) -> None:
        actor = self._actors.get(tag)
        if actor is None:  # it has ended since
            return
        with contextlib.suppress(RayError):  # it died, of which hears who tends it
            # Not retried by Ray: the next process owes no answer to this.
            await actor.give_sign.options(max_task_retries=0).remote()
        self._world.hear_replica(tag, asked_at)  # an error is no silence either: it is asked again

    def _begin_restart(self, tag: str, message: str) -> None:
        logger.error("%s", message)
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        trouble = (
            f"unresponsive since {since}: no sign of life from its event loop. It is ended and "
            "started anew."
        )
        self._world.change_replica(tag, phase=Phase.UNRESPONSIVE, trouble=trouble)
        self._act(functools.partial(self._restart, tag))

    async def _restart(self, tag: str) -> None:
        """Have a process ended that does not answer; who tends the replica hears of its end."""
        await self._until_ingresses_applied(INGRESS_ACK_S)
        view, actor = self._world.replica(tag), self._actors.get(tag)
        if actor is not None and view is not None and view.phase is Phase.UNRESPONSIVE:
            ray.kill(actor, no_restart=False)

    async def _expose(self, tag: str) -> None:
        actor = self._actors.get(tag)
        if actor is None:  # it has ended since
            return
        with contextlib.suppress(RayError):  # it died: the next process is asked again
            address = await actor.expose.remote()
            view = self._world.replica(tag)
            if view is not None and view.phase is Phase.RUNNING:
                self._world.change_replica(tag, address=address)
        self._world.change_replica(tag, is_exposing=False)

    async def _stop_replica(self, tag: str) -> None:
        self._stop_tending(tag)
        view = self._world.replica(tag)
        config = self._configs.get(view.backend_tag) if view is not None else None
        config = config or BackendConfig()
        if view is not None and view.address is not None and tag in self._actors:
            await self._until_ingresses_applied(INGRESS_ACK_S)
            timeout_s = config.experimental_graceful_shutdown_timeout_s
            wait_s = config.experimental_graceful_shutdown_wait_loop_s
            await _quietly(self._actors[tag].drain.remote(wait_s, timeout_s), timeout_s + 1)
        await self._end(tag)

    async def _end(self, tag: str) -> None:
        self._stop_tending(tag)
        actor = self._actors.get(tag)
        if actor is not None:
            view = self._world.replica(tag)
            if view is not None and view.address is not None:
                await _quietly(actor.stop.remote(), STOP_S)
            ray.kill(actor, no_restart=True)
            self._actors.pop(tag, None)  # after it: it may fail, and is done again
        self._world.drop_replica(tag)

    def _fail_replica(self, tag: str, message: str) -> None:
        view = self._world.replica(tag)
        if view is None or view.phase is Phase.STOPPING:
            return
        logger.error("%s ('tagtrail status' shows all of it.)", message.partition("\n")[0])
        self._world.note_failure(view.backend_tag, message)
        self._world.change_replica(tag, phase=Phase.STOPPING, address=None)
        self._act(functools.partial(self._end, tag))

    def _start_ingress(self, node_id: str) -> None:
        goal = self._goal()
        name = ingress_actor_name(self._controller_name, node_id)
        self._world.set_ingress(IngressView(node_id))
        actor = (
            _ingress_class()
            .options(**ingress_options(name, node_id))
            .remote(
                self._controller_name,
                node_id,
                goal.http,
                make_ingress_token(goal.secret),
                goal.logging,
                goal.tracing,
            )
        )
        self._adopt_ingress(node_id, actor)

    def _adopt_ingress(self, node_id: str, actor: ActorHandle) -> None:
        name = ingress_actor_name(self._controller_name, node_id)
        self._world.set_ingress(IngressView(node_id))
        self._actors[name] = actor
        self._tend(name, lambda: self._tend_ingress(node_id, actor))

    async def _tend_ingress(self, node_id: str, actor: ActorHandle) -> None:
        while True:
            try:
                address, admin_address, node_address = await actor.ready.remote()
            except Exception as error:  # noqa: BLE001 - seen by who waits for the ingress
                cause = error.cause if isinstance(error, RayTaskError) else error
                self._world.set_ingress(IngressView(node_id, error=str(cause)))
                logger.error("Ingress on node '%s': %s", node_id, cause)
                await asyncio.sleep(1)
                if isinstance(error, RayActorError):
                    self._on_ingress_gone(node_id)
                    self._world.drop_ingress(node_id)
                    return
                ray.kill(actor, no_restart=False)  # it can't serve: Ray starts it anew
                continue
            view = IngressView(node_id, address, admin_address, node_address)
            self._world.set_ingress(view)
            try:
                await self._watch(actor, functools.partial(self._change_ingress, view))
            except RayActorError:
                logger.warning("The ingress on node '%s' died; Ray starts it anew.", node_id)
                self._world.set_ingress(IngressView(node_id))

    def _change_ingress(self, view: IngressView, trouble: str) -> None:
        self._world.set_ingress(replace(view, trouble=trouble))

    async def _watch(self, actor: ActorHandle, change: Callable[..., None]) -> None:
        """Take up what fails in an actor's process. RayActorError: the process ended."""
        trouble = ""
        while True:
            # Not retried by Ray: the end of the process is what this waits for.
            trouble = await actor.watch.options(max_task_retries=0).remote(trouble)
            change(trouble=trouble)

    def _tend(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tending[name] = self._spawn(keep_running(TENDING, work))

    def _act(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something until it is done: the world would wait for its end for ever."""
        self._spawn(keep_running(ACTION, work))

    def _stop_tending(self, name: str) -> None:
        task = self._tending.pop(name, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@functools.lru_cache(maxsize=1)
def _ingress_class() -> Any:
    """The actor class of ingresses.

    Loaded where one is started only. Ray loads the module of the controller's class in every
    process that gets a handle to the controller: all replicas and drivers.
    """
    from serve.ingress.actor import IngressActor

    return ray.remote(IngressActor)


@functools.lru_cache(maxsize=128)
def _replica_class(name: str) -> Any:
    """The actor class of replicas of a callable: its name is what `ray list actors` shows.

    One for all replicas: Ray exports each class that it is given, and keeps it until it ends.
    """
    from serve.replica.actor import LOOKING, ReplicaActor  # see _ingress_class

    made = type(f"RayServeReplica_{name}", (ReplicaActor,), {})
    return ray.remote(concurrency_groups={LOOKING: 1})(made)


async def _quietly(reference: Any, timeout_s: float) -> None:
    """Wait for a call whose failure changes nothing: the actor is ended next."""
    with contextlib.suppress(RayError, asyncio.TimeoutError):
        await asyncio.wait_for(_result(reference), timeout_s)


async def _result(reference: Any) -> Any:
    return await reference


def _reconfigure_message(replica_tag: str, failed: Failed) -> str:
    return f"Replica '{replica_tag}' failed to reconfigure:\n{failed.message}"
