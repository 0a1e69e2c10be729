"""The Ray actor around a replica. Thin: Ray starts and restarts it; Replica does the work.

What the work takes is loaded in a replica's process only. The controller, and whoever calls
`handle.remote()`, load this module for the actor's methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from observability.instrument.export import start_export, stop_export
from observability.instrument.numbers import Snapshot, process_numbers
from observability.instrument.supervision import (
    in_thread,
    keep_running,
    run_all,
    until_other_trouble,
)
from observability.instrument.tracing import start_tracing, stop_tracing
from serve.call import unpack_call
from serve.config import BackendConfig
from serve.errors import RayServeException, describe_error
from serve.ids import NAMESPACE, replica_actor_name
from serve.owner import killed_after, until_owner_gone
from serve.records import BackendTargets, ReplicaAddress, backend_key
from serve.replica.spec import Failed, Ready, ReplicaSpec
from serve.session import segment_folder, session_folder
from serve.settings import adopt_tracing

if TYPE_CHECKING:
    from serve.replica.replica import Replica
    from serve.request import HTTPRequest

logger = logging.getLogger("ray.serve")

LOOKING = "look"
"""Concurrency group of what is answered on another loop: the replica's may be blocked."""

ENDING = "end of the replica"
OTHERS = "watch for the other replicas"
OWNER = "watch for the controller's end"
PLACED_S = 1.0
"""Longest wait for the controller to hear that a replica has its process, seconds."""
_OF_USER = (Exception, SystemExit, KeyboardInterrupt)
"""What users' code may raise in an actor method: Ray would end the process at an exit."""


class ReplicaActor:
    """One replica's actor. The methods are the controller's, but for `handle_call`."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc] # Ray awaits it
        from serve.handle.untold import record_untold_calls
        from serve.replica.exits import outlive_exits
        from serve.replica.records import ReplicaRecords
        from serve.replica.replica import Replica
        from serve.replica.sidecar.registry import registry_folder
        from serve.watcher import Watcher

        for module in spec.preload:
            importlib.import_module(module)
        self._controller_name = spec.controller_name
        host = ray.util.get_node_ip_address()
        self._records = ReplicaRecords(
            segment_folder(),
            spec.backend_tag,
            spec.replica_tag,
            host,
            spec.logging_of(spec.config),
        )
        outlive_exits()
        record_untold_calls(self._records.trail.tell_call)
        start_tracing(adopt_tracing(spec.tracing), self._records.static, spec.backend_tag)
        start_export()
        runtime = ray.get_runtime_context()
        controller = ray.get_actor(spec.controller_name, namespace=NAMESPACE)
        placed = controller.replica_placed.remote(spec.replica_tag)
        # Seen through, if the controller is there: a constructor that ends the process would take
        # it along.
        with contextlib.suppress(RayError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(placed.future()), PLACED_S)
        self._replica: Replica = Replica(
            spec,
            host,
            runtime.get_node_id(),
            replica_actor_name(spec.controller_name, spec.replica_tag),
            self._send_shadow,
            self._records,
            registry_folder(session_folder(), spec.controller_name, spec.backend_tag),
        )
        self._outcome = await self._start()
        self._watcher = Watcher(spec.controller_name, "", self._see_others, "replica")
        process_numbers.join(self._watcher.families)
        self._others_watch = asyncio.get_running_loop().create_task(
            keep_running(OTHERS, self._watch_others)
        )
        outlive_exits()  # the user's code may have set a hook
        self._owner_watch = asyncio.get_running_loop().create_task(
            keep_running(OWNER, self._end_without_owner)
        )

    async def ready(self) -> Ready | Failed:
        """Answers once the constructor is done, well or not."""
        if isinstance(self._outcome, Failed):
            return self._outcome
        replica = self._replica
        return Ready(self._outcome, replica.config_version, os.getpid(), replica.is_asgi)

    async def give_sign(self) -> None:
        """The event loop lives: the controller's health check. Nothing else could answer."""

    async def watch(self, known: str) -> str:
        """What fails in this process, as soon as it is another than what the caller knows.

        The caller hears of the process's end by the call's failure.
        """
        return await until_other_trouble(known)

    async def handle_call(self, packed: bytes, *rest: Any) -> tuple[Any, None]:
        """One `handle.remote()`; the arguments are `pack_call`'s.

        The second value is what the caller holds to know that the call is done.
        """
        call = unpack_call(packed, *rest)
        try:
            return await self._replica.execute(call, "remote"), None
        except Exception as error:
            from serve.replica.failures import sign_failure

            tag = self._replica.spec.replica_tag
            sign_failure(error, tag, f"{call.endpoint}.{call.method}")
            raise
        except BaseException as error:
            from serve.replica.failures import is_stopped

            if is_stopped(error):
                raise
            # sys.exit() in a handler: Ray would end this process. CancelledError of the handler's
            # own: to Ray the caller would have cancelled.
            raise RayServeException(
                f"{call.endpoint}.{call.method} raised {describe_error(error)}"
            ) from error
        finally:
            self._records.trail.flush()  # before the answer leaves

    async def reconfigure(self, config: BackendConfig, version: int) -> Failed | None:
        """Take a changed configuration, or say why not."""
        try:
            await self._replica.reconfigure(config, version)
        except _OF_USER as error:  # the user's reconfigure may raise all
            return _failed(error)
        return None

    async def expose(self) -> ReplicaAddress:
        """Listen where other nodes reach it too; its address from now on."""
        return await self._replica.expose()

    async def numbers(self) -> list[Snapshot]:
        """This process's metrics as they are now."""
        return process_numbers.snapshot()

    @ray.method(concurrency_group=LOOKING)  # type: ignore[untyped-decorator]
    async def under_way(self, request_id: str) -> list[dict[str, Any]]:
        """What it has under way of a request; see `present.describe_present`."""
        from serve.replica.present import describe_present

        return describe_present(request_id, self._records.static, self._records.writer)

    async def drain(self, wait_loop_s: float, timeout_s: float) -> bool:
        """Let calls finish; whether all did in time. The controller ends the process afterwards."""
        return await self._replica.drain(wait_loop_s, timeout_s)

    async def stop(self) -> None:
        """Close everything. The process is killed next; what is said until then is recorded."""
        self._owner_watch.cancel()
        self._others_watch.cancel()
        await self._close()

    async def _close(self) -> None:
        await run_all(
            ENDING,
            self._replica.stop,
            in_thread(stop_tracing),
            in_thread(stop_export),
            in_thread(self._records.end),
        )

    async def _start(self) -> ReplicaAddress | Failed:
        """The address, or why there is none: raised, it would come back wrapped by Ray."""
        try:
            return await self._replica.start()
        except _OF_USER as error:  # the user's constructor may raise all
            self._records.end()  # who hears of it kills this process
            return _failed(error)

    async def _watch_others(self) -> None:
        await asyncio.gather(
            self._watcher.run(),
            self._watcher.want(backend_key(self._replica.spec.backend_tag)),
        )

    async def _see_others(self, key: str, value: object) -> None:
        if isinstance(value, BackendTargets):
            self._replica.see_others(value.replicas)

    async def _end_without_owner(self) -> None:
        controller_name = self._controller_name
        await until_owner_gone(controller_name)
        logger.warning("Controller '%s' is gone for good: this replica ends.", controller_name)
        with killed_after():
            await self._close()

    def _send_shadow(self, endpoint: str, tags: list[str], request: HTTPRequest) -> None:
        from serve.handle.shadow import send_copies

        send_copies(endpoint, tags, request)


def _failed(error: BaseException) -> Failed:
    from serve.replica.failures import describe_failure

    return Failed(describe_failure(error))
