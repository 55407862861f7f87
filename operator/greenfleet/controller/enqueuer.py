"""What changed decides which keys go into the work queue. kopf tells of pools, the watches of children, and the rest of
the controller of what it has found out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from greenfleet.api import GreenWorkerPool
from greenfleet.controller.keys import DoubtfulPoolKey, ExporterKey, Key, PoolKey
from greenfleet.controller.reconciler import note_drift
from greenfleet.controller.registry import Record, Registry
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.manifests.exporter import same_for_exporter
from greenfleet.own_metrics import OperatorMetrics


class Enqueuer:
    """Brings the registry up to date, and adds what follows from a change to the queue."""

    def __init__(self, registry: Registry, queue: WorkQueue[Key], metrics: OperatorMetrics) -> None:
        self._registry = registry
        self._queue = queue
        self._metrics = metrics

    def pool_changed(self, body: dict[str, Any], *, certain: bool = False) -> None:
        """A pool is there, new or changed. A change of our own status changes nothing else and costs nothing here.
        *certain*: as in `Registry.put`.
        """
        if body["metadata"].get("deletionTimestamp"):
            # Its children go, or are to stay without it (--cascade=orphan): whatever we applied now would undo either.
            self.pool_removed(body)
            return
        key = PoolKey.of(body)
        old = self._registry.get(key.text)
        before = (old.pool, old.uid) if old else None
        record = self._registry.put(body, certain=certain)
        if old is None or before != (record.pool, record.uid):
            self._queue.add(key)
            concerned = [pool for pool in (before and before[0], record.pool) if pool]
            if len(concerned) < 2 or not same_for_exporter(*concerned):
                self._enqueue_exporters(concerned)
            self._enqueue_conflicting(concerned)

    def pool_removed(self, body: dict[str, Any]) -> None:
        """A pool is gone: the garbage collector takes its children, its neighbours may be free of a conflict now."""
        record = self._registry.remove(PoolKey.of(body).text, body["metadata"]["uid"])
        if record is None:
            return  # known already; or another pool of its name is there by now
        self._metrics.forget(record.key)
        if record.pool is not None:
            self._enqueue_exporters([record.pool])
            self._enqueue_conflicting([record.pool])

    def pool_doubtful(self, record: Record) -> None:
        """The API server does not know this pool: the watch missed its deletion, or will tell of it soon."""
        if self._registry.get(record.key) is record:
            self._queue.add(DoubtfulPoolKey(PoolKey.of(record.body)))

    def child_changed(self, namespace: str, pool: str | None) -> None:
        """A child drifted or disappeared. Exporters are looked at with any of the namespace's pools."""
        if pool is not None:
            key = PoolKey(namespace, pool)
            if (drifted := self._registry.get(key.text)) is not None:
                note_drift(drifted)
                self._queue.add(key)
            return
        for record in self._registry:
            if record.pool is not None and record.pool.namespace == namespace:
                self._queue.add(ExporterKey.of(record.pool))

    def routes_changed(self, record: Record) -> None:
        """Auto-routing changed which tasks run in prefork workers."""
        self._queue.add(PoolKey.of(record.body))

    def exporter_left(self, key: ExporterKey) -> None:
        """No pool needs this exporter, and nobody has removed it."""
        self._queue.add(key)

    def enqueue_all(self) -> None:
        """Everything, after leadership was gained: what another replica did meanwhile is not known."""
        for record in self._registry:
            for key in _keys_of(record):
                self._queue.add(key)

    def enqueue_running(self, within_seconds: float) -> None:
        """Whatever has workers, spread over the time until the next resync. What is idle is made anew when it wakes."""
        for record in self._registry:
            if not record.is_scaled_to_zero:
                for key in _keys_of(record):
                    self._queue.add_later(key, random.uniform(0.0, within_seconds))

    def _enqueue_exporters(self, pools: Iterable[GreenWorkerPool]) -> None:
        for pool in pools:
            self._queue.add(ExporterKey.of(pool))

    def _enqueue_conflicting(self, pools: Iterable[GreenWorkerPool]) -> None:
        """Whoever is or was in conflict with one of these pools."""
        for pool in pools:
            for conflicting in self._registry.conflicting_pools(pool):
                self._queue.add(PoolKey(conflicting.namespace, conflicting.name))


def _keys_of(record: Record) -> Iterator[Key]:
    yield PoolKey.of(record.body)
    if record.pool is not None:
        yield ExporterKey.of(record.pool)
