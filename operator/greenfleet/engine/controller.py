"""Ties events to work: what changed decides which keys go into the queue, and the queue calls the reconciler."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from greenfleet.engine.fleet_view import FleetView
from greenfleet.engine.reconciler import Reconciler
from greenfleet.engine.registry import Registry
from greenfleet.engine.status_writer import StatusWriter
from greenfleet.engine.workqueue import WorkQueue
from greenfleet.kube.client import Client, NotLeaderError
from greenfleet.metrics.own import OperatorMetrics

_POOL, _EXPORTER = "pool:", "exporter:"
_RESYNC_SECONDS = 600.0
"""Everything is applied again so often: repairs what no watch shows (a ConfigMap that somebody edited)."""


class Controller:
    """Owner of the work queue. `view` calls back with Deployments that changed; kopf calls back with pools."""

    def __init__(self, client: Client, registry: Registry, metrics: OperatorMetrics) -> None:
        self._client = client
        self._registry = registry
        self._metrics = metrics
        self._queue = WorkQueue(self._work)
        self._reconciler: Reconciler | None = None
        self._status: StatusWriter | None = None
        self._view: FleetView | None = None

    def start_with(self, reconciler: Reconciler, status: StatusWriter, view: FleetView) -> None:
        """The parts that need this controller to be made first."""
        self._reconciler, self._status, self._view = reconciler, status, view

    def pool_changed(self, body: dict[str, Any]) -> None:
        """A pool is there, new or changed. A change of our own status changes nothing else and costs nothing here."""
        if body["metadata"].get("deletionTimestamp"):
            # Its children go, or are to stay without it (--cascade=orphan): whatever we applied now would undo either.
            self.pool_removed(body)
            return
        key = _key(body)
        old = self._registry.get(key)
        before = (old.pool, old.body["metadata"]["uid"]) if old else None
        record = self._registry.put(body)
        if old is None or before != (record.pool, record.body["metadata"]["uid"]):
            self._enqueue_with_neighbours(
                key, {pool.broker_key for pool in (before and before[0], record.pool) if pool}
            )

    def pool_removed(self, body: dict[str, Any]) -> None:
        """A pool is gone: the garbage collector takes its children, its neighbours may be free of a conflict now."""
        record = self._registry.remove(_key(body))
        self._metrics.forget(_key(body))
        if record is not None and record.pool is not None:
            self._enqueue_with_neighbours(None, {record.pool.broker_key})

    def deployment_changed(self, namespace: str, pool: str | None) -> None:
        """A child drifted or disappeared. Exporters are looked at with any of the namespace's pools."""
        for record in self._registry:
            if record.key == f"{namespace}/{pool}":
                self._queue.add(_POOL + record.key)
            elif pool is None and record.pool is not None and record.pool.namespace == namespace:
                self._queue.add(_EXPORTER + record.pool.broker_key)

    def routes_changed(self, key: str) -> None:
        """Evidence changed which tasks run in prefork workers."""
        self._queue.add(_POOL + key)

    def enqueue_all(self) -> None:
        """Everything: after leadership was gained, and now and then."""
        for record in self._registry:
            self._queue.add(_POOL + record.key)
            if record.pool is not None:
                self._queue.add(_EXPORTER + record.pool.broker_key)

    async def run(self, gained: asyncio.Event) -> None:
        """Works while leading; as a standby it waits."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            while True:
                await gained.wait()
                self.enqueue_all()
                await self._until_resync_or_lost(gained)

    @staticmethod
    async def _until_resync_or_lost(gained: asyncio.Event) -> None:
        due = time.monotonic() + _RESYNC_SECONDS
        while gained.is_set() and time.monotonic() < due:  # noqa: ASYNC110 - an Event cannot be awaited for its clearing
            await asyncio.sleep(1.0)

    def _enqueue_with_neighbours(self, key: str | None, broker_keys: set[str]) -> None:
        if key is not None:
            self._queue.add(_POOL + key)
        for broker_key in broker_keys:
            self._queue.add(_EXPORTER + broker_key)
            for pool in self._registry.of_broker(broker_key):
                self._queue.add(_POOL + pool.key)

    async def _work(self, key: str) -> None:
        if self._reconciler is None or self._status is None or self._view is None:
            raise RuntimeError("start_with was not called")
        if not self._view.is_synced:
            self._queue.add_later(key, 0.2)
            return
        outcome = "error"
        try:
            with self._metrics.reconcile_seconds.time():
                if key.startswith(_EXPORTER):
                    await self._reconciler.reconcile_exporter(key.removeprefix(_EXPORTER))
                elif (record := self._registry.get(key.removeprefix(_POOL))) is not None:
                    await self._reconciler.reconcile_pool(record)
                    await self._status.sync(record)
            outcome = "success"
        except NotLeaderError:
            outcome = "standby"
            raise
        finally:
            self._metrics.reconciles.labels(outcome).inc()


def _key(body: dict[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"
