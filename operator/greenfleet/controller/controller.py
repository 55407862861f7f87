"""Works off the queue: each key is handed to the reconciler that it is for. While this replica leads, whatever runs is
put into the queue again once in a while; on a standby the client refuses the first write, and the key waits.
"""

from __future__ import annotations

import asyncio
import time

from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.config_resync import ConfigResync
from greenfleet.controller.enqueuer import Enqueuer
from greenfleet.controller.exporters import ExporterReconciler
from greenfleet.controller.keys import DoubtfulPoolKey, ExporterKey, Key, PoolKey
from greenfleet.controller.pool_list import PoolList
from greenfleet.controller.reconciler import Reconciler
from greenfleet.controller.registry import Record, Registry
from greenfleet.controller.status_writer import StatusWriter
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.k8s.client import ConflictError, NotLeaderError
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.status.stalled import StalledReason

_RESYNC_SECONDS = 600.0
"""Whatever runs is applied again so often, in case a watch missed something."""


class Controller:
    """Works on what `enqueuer` adds to the queue."""

    def __init__(
        self,
        *,
        registry: Registry,
        queue: WorkQueue[Key],
        enqueuer: Enqueuer,
        pools: PoolList,
        view: ClusterCache,
        reconciler: Reconciler,
        exporters: ExporterReconciler,
        status: StatusWriter,
        metrics: OperatorMetrics,
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._enqueuer = enqueuer
        self._pools = pools
        self._view = view
        self._reconciler = reconciler
        self._exporters = exporters
        self._status = status
        self._metrics = metrics

    async def run(self, gained: asyncio.Event) -> None:
        """Until cancelled. What a standby was refused is worked on once it leads (`gained`)."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(self._work))
            await self._pools.wait_for_initial_list()
            group.create_task(self._pools.keep_comparing())
            group.create_task(ConfigResync(self._registry, self._repair_config).run(gained))
            while True:
                await gained.wait()
                self._enqueuer.enqueue_all()
                while gained.is_set():
                    await self._until_resync_or_lost(gained)
                    self._enqueuer.enqueue_running(_RESYNC_SECONDS)

    async def _repair_config(self, record: Record) -> None:
        try:
            await self._reconciler.repair_config(record)
        except ConflictError:
            self._queue.add(PoolKey.of(record.body))

    async def _until_resync_or_lost(self, gained: asyncio.Event) -> None:
        due = time.monotonic() + _RESYNC_SECONDS
        while gained.is_set() and time.monotonic() < due:
            self._queue.retry_refused()
            await asyncio.sleep(1.0)

    async def _work(self, key: Key) -> None:
        if not (self._view.is_synced and self._pools.is_complete):
            self._queue.add_later(key, 0.2)
            return
        outcome = "error"
        try:
            with self._metrics.reconcile_seconds.time():
                match key:
                    case DoubtfulPoolKey(pool):
                        await self._pools.ask_for(pool)
                    case ExporterKey():
                        await self._work_on_exporter(key)
                    case PoolKey():
                        await self._work_on_pool(key)
            outcome = "success"
        except NotLeaderError:
            outcome = "standby"
            raise
        finally:
            self._metrics.reconciles.labels(outcome).inc()

    async def _work_on_pool(self, key: PoolKey) -> None:
        record = self._registry.get(key.text)
        if record is None:
            return
        again = await self._reconciler.reconcile_pool(record)
        await self._status.sync(record)
        if again is not None:
            self._queue.add_later(key, again)

    async def _work_on_exporter(self, key: ExporterKey) -> None:
        before = self._registry.exporter(key.broker_key).refused
        try:
            if (again := await self._exporters.reconcile(key)) is not None:
                self._queue.add_later(key, again)
        finally:  # what failed after it changes nothing about a refusal that began or ended
            await self._say_refused(key, before)

    async def _say_refused(self, key: ExporterKey, before: StalledReason | None) -> None:
        pools = self._registry.of_broker(key.broker_key)
        if pools and self._registry.exporter(key.broker_key).refused != before:
            for pool in pools:
                if (record := self._registry.get(pool.key)) is not None:
                    await self._status.sync(record)
