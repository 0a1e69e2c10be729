"""The Ray actor around an ingress. Thin: it hands what the controller publishes to the keeper."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import shutil
import tempfile

import ray

from observability.fields import Component
from observability.instrument.export import start_export, stop_export
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.numbers import Snapshot, process_numbers
from observability.instrument.supervision import (
    in_thread,
    keep_running,
    process_troubles,
    run_all,
    until_other_trouble,
)
from observability.instrument.tracing import start_tracing, stop_tracing
from serve.config import DeploymentMode, HTTPOptions
from serve.ingress.admin import AdminError
from serve.ingress.figures import IngressFigures
from serve.ingress.keeper import KEEPER, IngressKeeper
from serve.ingress.locate import find_haproxy
from serve.ingress.metrics_page import MetricsPage
from serve.ingress.records import IngressSettings
from serve.ingress.trail import IngressRecords
from serve.owner import killed_after, until_owner_gone
from serve.records import INGRESS_KEY, IngressTable
from serve.session import segment_folder
from serve.settings import adopt_tracing
from serve.watcher import Watcher

logger = logging.getLogger("ray.serve")

STOP_GRACE_S = 2.0
QUEUE_LOOK_S = 1.0
SILENT_LOOKS = 3

WATCHER = "watch for changes"
QUEUES = "look at HAProxy's queues"
ENDING = "end of the ingress"
OWNER = "watch for the controller's end"


class IngressActor:
    """One node's ingress: one HAProxy and its keeper.

    Args:
        controller_name: the instance's controller.
        node_id: Ray's id of this node, hexadecimal.
        http: where to listen.
        token: what replicas want to see with each request.
        logging_config: the instance's.
        tracing: `OTEL_` variables; those of the actor's own environment go before them.
    """

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self,
        controller_name: str,
        node_id: str,
        http: HTTPOptions,
        token: str,
        logging_config: LoggingConfig,
        tracing: dict[str, str],
    ) -> None:
        assert http.host is not None  # without a host there is no ingress
        self._address = f"{http.host}:{http.port}"
        folder = _run_folder(controller_name, node_id)
        self._settings = IngressSettings(
            http.host,
            http.port,
            folder,
            node_id,
            request_timeout_s=http.request_timeout_s,
            is_logged=True,  # they are counted even where no access records are wanted
            prefers_local=http.location is DeploymentMode.EveryNode,
            token=token,
        )
        self._figures = IngressFigures()
        self._node_address = ray.util.get_node_ip_address()
        self._records = IngressRecords(
            segment_folder(), self._node_address, logging_config, self._figures
        )
        self._http = http
        self._node_id = node_id
        self._controller_name = controller_name
        self._page: MetricsPage | None = None
        start_tracing(adopt_tracing(tracing), self._records.static, Component.INGRESS.value)
        process_numbers.join(self._records.families)
        start_export()
        self._keeper = IngressKeeper(self._settings, find_haproxy(), self._records.take_line)
        self._is_started = False
        self._watcher = Watcher(
            controller_name, f"ingress/{node_id}", self._apply, Component.INGRESS.value
        )
        process_numbers.join(self._watcher.families)
        self._is_serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run()),
            loop.create_task(keep_running(OWNER, self._end_without_owner)),
        ]
        logger.info("Starting HTTP proxy on node '%s' listening on '%s'", node_id, self._address)

    async def ready(self) -> tuple[str, str, str]:
        """Where it listens, once it does, where its metrics page does, "" without one; its node's.

        Raises:
            ValueError: it can't.
        """
        await asyncio.shield(self._is_serving)
        page = "" if self._page is None else self._page.address
        return self._address, page, self._node_address

    async def numbers(self) -> list[Snapshot]:
        """This process's metrics as they are now."""
        return process_numbers.snapshot()

    async def watch(self, known: str) -> str:
        """What fails in this process, as soon as it is another than what the caller knows.

        The caller hears of the process's end by the call's failure.
        """
        return await until_other_trouble(known)

    async def stop(self) -> None:
        """End HAProxy; requests under way have a moment to finish."""
        for task in self._tasks:
            task.cancel()
        self._watcher.stop()
        page_steps = [] if self._page is None else [in_thread(self._page.stop)]
        await run_all(
            ENDING,
            *page_steps,
            functools.partial(self._keeper.stop, STOP_GRACE_S),
            in_thread(functools.partial(shutil.rmtree, self._settings.folder, ignore_errors=True)),
            in_thread(stop_tracing),
            in_thread(stop_export),
            in_thread(self._records.end),
        )

    async def _run(self) -> None:
        try:
            if self._http.admin_host is not None:
                self._page = MetricsPage(
                    self._http.admin_host,
                    self._http.admin_port,
                    self._controller_name,
                    self._node_id,
                )
            await self._watcher.subscribe(INGRESS_KEY)
        except Exception as error:  # noqa: BLE001 - told to who waits in ready()
            self._is_serving.set_exception(error)
            return
        self._is_serving.set_result(None)
        for task, work in (
            (WATCHER, self._watcher.run),
            (KEEPER, self._keeper.supervise),
            (QUEUES, self._watch_queues),
        ):
            self._tasks.append(asyncio.create_task(keep_running(task, work)))

    async def _watch_queues(self) -> None:
        silent = 0
        while True:
            try:
                lengths = await self._keeper.queue_lengths()
                self._figures.set_queues(self._keeper.table, lengths)
                self._records.take_dropped(*await self._keeper.dropped_logs())
                silent = 0
                process_troubles.clear(QUEUES)
            except AdminError as error:  # it is starting anew, if it answers again soon
                silent += 1
                if silent >= SILENT_LOOKS:
                    process_troubles.tell(QUEUES, error, "It is asked again.")
            await asyncio.sleep(QUEUE_LOOK_S)

    async def _apply(self, key: str, value: object) -> None:
        assert isinstance(value, IngressTable)
        for backend in value.backends:
            self._records.replicas.see(backend.replicas)
        if self._is_started:
            await self._keeper.apply(value)
        else:
            await self._keeper.start(value)
            self._is_started = True

    async def _end_without_owner(self) -> None:
        await until_owner_gone(self._controller_name)
        logger.warning(
            "Controller '%s' is gone for good: this ingress ends.", self._controller_name
        )
        self._tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        with killed_after():
            await self.stop()


def _run_folder(controller_name: str, node_id: str) -> str:
    """A folder of this ingress's own, the same after a restart, short enough for Unix sockets."""
    name = hashlib.sha256(f"{controller_name}/{node_id}".encode()).hexdigest()[:16]
    return os.path.join(tempfile.gettempdir(), f"tagtrail-{os.getuid()}-{name}")
