"""The Ray actor around a replica. Thin: Ray starts and restarts it; Replica does the work."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from dataclasses import dataclass
from typing import Any

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
from serve.errors import RayServeException
from serve.handle.shadow import send_copies
from serve.handle.untold import record_untold_calls
from serve.ids import NAMESPACE, replica_actor_name
from serve.owner import killed_after, until_owner_gone
from serve.records import ReplicaAddress
from serve.replica.failures import describe_failure, is_stopped
from serve.replica.records import ReplicaRecords
from serve.replica.replica import Replica, ReplicaSpec
from serve.request import HTTPRequest
from serve.session import segment_folder
from serve.settings import adopt_tracing

logger = logging.getLogger("ray.serve")

ENDING = "end of the replica"
OWNER = "watch for the controller's end"
PLACED_S = 1.0
"""Longest wait for the controller to hear that a replica has its process, seconds."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a replica says once it runs.

    Attributes:
        address: where it is reached.
        config_version: version of the configuration it runs with.
        pid: its process.
        is_asgi: the definition is an ASGI application; of an import path, only the replica can
            tell.
    """

    address: ReplicaAddress
    config_version: int
    pid: int
    is_asgi: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """What a replica says whose constructor raised. `message`: the user's traceback."""

    message: str


class ReplicaActor:
    """One replica's actor. The methods are the controller's, but for `handle_call`."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc] # Ray awaits it
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
        self._replica = Replica(
            spec,
            host,
            runtime.get_node_id(),
            replica_actor_name(spec.controller_name, spec.replica_tag),
            self._send_shadow,
            self._records,
        )
        self._outcome = await self._start()
        self._owner_watch = asyncio.get_running_loop().create_task(
            keep_running(OWNER, self._end_without_owner)
        )

    async def ready(self) -> Ready | Failed:
        """Answers once the constructor is done, well or not."""
        if isinstance(self._outcome, str):
            return Failed(self._outcome)
        replica = self._replica
        return Ready(self._outcome, replica.config_version, os.getpid(), replica.is_asgi)

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
        except Exception:
            raise
        except BaseException as error:
            if is_stopped(error):
                raise
            # sys.exit() in a handler: Ray would end this process. CancelledError of the handler's
            # own: to Ray the caller would have cancelled.
            raise RayServeException(
                f"{call.endpoint}.{call.method} raised {type(error).__name__}: {error}"
            ) from error
        finally:
            self._records.trail.flush()  # before the answer leaves

    async def reconfigure(self, config: BackendConfig, version: int) -> Failed | None:
        """Take a changed configuration, or say why not."""
        try:
            await self._replica.reconfigure(config, version)
        except Exception as error:  # noqa: BLE001 - the user's reconfigure may raise all
            return Failed(describe_failure(error))
        return None

    async def expose(self) -> ReplicaAddress:
        """Listen where other nodes reach it too; its address from now on."""
        return await self._replica.expose()

    async def numbers(self) -> list[Snapshot]:
        """This process's metrics as they are now."""
        return process_numbers.snapshot()

    async def drain(self, wait_loop_s: float, timeout_s: float) -> bool:
        """Let calls finish; whether all did in time. The controller ends the process afterwards."""
        return await self._replica.drain(wait_loop_s, timeout_s)

    async def stop(self) -> None:
        """Close everything. The process is killed next; what is said until then is recorded."""
        self._owner_watch.cancel()
        await self._close()

    async def _close(self) -> None:
        await run_all(
            ENDING,
            self._replica.stop,
            in_thread(stop_tracing),
            in_thread(stop_export),
            in_thread(self._records.end),
        )

    async def _start(self) -> ReplicaAddress | str:
        """The address, or why there is none: raised, it would come back wrapped by Ray."""
        try:
            return await self._replica.start()
        except Exception as error:  # noqa: BLE001 - the user's constructor may raise all
            self._records.end()  # who hears of it kills this process
            return describe_failure(error)

    async def _end_without_owner(self) -> None:
        controller_name = self._controller_name
        await until_owner_gone(controller_name)
        logger.warning("Controller '%s' is gone for good: this replica ends.", controller_name)
        with killed_after():
            await self._close()

    def _send_shadow(self, endpoint: str, tags: list[str], request: HTTPRequest) -> None:
        send_copies(endpoint, tags, request)
