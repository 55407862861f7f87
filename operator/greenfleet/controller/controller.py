"""Ties events to work: what changed decides which keys go into the queue, and the queue calls the reconciler."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any

from greenfleet.api import API_VERSION, KIND, GreenWorkerPool
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.config_resync import ConfigResync
from greenfleet.controller.exporters import ExporterReconciler
from greenfleet.controller.keys import DoubtfulPoolKey, ExporterKey, Key, PoolKey
from greenfleet.controller.reconciler import Reconciler
from greenfleet.controller.registry import Record, Registry
from greenfleet.controller.status_writer import StatusWriter
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client, ConflictError, NotLeaderError
from greenfleet.manifests.exporter import same_for_exporter
from greenfleet.own_metrics import OperatorMetrics

_log = logging.getLogger(__name__)

_INITIAL_LIST_SECONDS = 60.0
"""How long kopf may take to tell of the pools that there are."""
_LIST_AGAIN_SECONDS = 2.0
"""After that those that it has not told of are looked for again: one that goes before its own list is never told of."""
_COMPARE_SECONDS = 15.0
"""The pools in memory are compared with a list so often: a watch that broke off or went silent may have missed a
deletion or a creation.
"""
_RESYNC_SECONDS = 600.0
"""Whatever runs is applied again so often, in case a watch missed something."""


class Controller:
    """Owner of the work queue. `view` calls back with children that changed; kopf calls back with pools."""

    def __init__(
        self, client: Client, registry: Registry, metrics: OperatorMetrics, namespaces: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._namespaces = namespaces
        self._knows_all_pools = False
        self._registry = registry
        self._metrics = metrics
        self._queue = WorkQueue[Key](self._work)
        self._reconciler: Reconciler | None = None
        self._exporters: ExporterReconciler | None = None
        self._status: StatusWriter | None = None
        self._view: ClusterCache | None = None

    def start_with(
        self, reconciler: Reconciler, exporters: ExporterReconciler, status: StatusWriter, view: ClusterCache
    ) -> None:
        """The parts that need this controller to be made first."""
        self._reconciler, self._exporters, self._status, self._view = reconciler, exporters, status, view

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
                if self._reconciler is not None:
                    self._reconciler.note_drift(drifted)
                self._queue.add(key)
            return
        for record in self._registry:
            if record.pool is not None and record.pool.namespace == namespace:
                self._queue.add(ExporterKey.of(record.pool))

    def routes_changed(self, record: Record) -> None:
        """Auto-routing changed which tasks run in prefork workers."""
        self._queue.add(PoolKey.of(record.body))

    def enqueue_all(self) -> None:
        """Everything, after leadership was gained: what another replica did meanwhile is not known."""
        for record in self._registry:
            for key in _keys_of(record):
                self._queue.add(key)

    def enqueue_running(self) -> None:
        """Whatever has workers, spread over the time until the next resync. What is idle is made anew when it wakes."""
        for record in self._registry:
            if not record.is_scaled_to_zero:
                for key in _keys_of(record):
                    self._queue.add_later(key, random.uniform(0.0, _RESYNC_SECONDS))

    async def run(self, gained: asyncio.Event) -> None:
        """Works while leading; as a standby it waits."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            await self._wait_for_initial_list()
            group.create_task(self._keep_comparing())
            if self._reconciler is not None:
                group.create_task(ConfigResync(self._registry, self._repair_config).run(gained))
            while True:
                await gained.wait()
                self.enqueue_all()
                while gained.is_set():
                    await self._until_resync_or_lost(gained)
                    self.enqueue_running()

    async def _repair_config(self, record: Record) -> None:
        if self._reconciler is not None:
            try:
                await self._reconciler.repair_config(record)
            except ConflictError:
                self._queue.add(PoolKey.of(record.body))

    async def _wait_for_initial_list(self) -> None:
        """Until kopf has told of every pool that there is: an exporter made from half of them would drop the others'
        queues.
        """
        missing: set[PoolKey] | None = None
        listed_at = float("-inf")
        deadline = time.monotonic() + _INITIAL_LIST_SECONDS
        while time.monotonic() < deadline and (missing is None or missing):
            try:
                if time.monotonic() - listed_at > _LIST_AGAIN_SECONDS:
                    there = {key for namespace in self._namespaces or (None,) for key in await self._list(namespace)}
                    missing = there if missing is None else missing & there
                    listed_at = time.monotonic()
            except ApiError as error:
                _log.warning("the pools cannot be listed, again in a second: %s", error)
            missing = missing and {key for key in missing if self._registry.get(key.text) is None}
            await asyncio.sleep(0.2 if missing is not None else 1.0)
        self._knows_all_pools = True

    async def _list(self, namespace: str | None) -> set[PoolKey]:
        path = paths.pools(namespace)
        return {
            PoolKey.of(item)
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
            if "deletionTimestamp" not in item["metadata"]
        }

    async def _keep_comparing(self) -> None:
        """As a standby too: who takes over has to know what there is."""
        while True:
            await asyncio.sleep(_COMPARE_SECONDS)
            for namespace in self._namespaces or (None,):
                try:
                    await self._compare(namespace)
                except ApiError as error:
                    _log.warning(
                        "the pools cannot be compared with a list, again in %.0f s: %s", _COMPARE_SECONDS, error
                    )
                except Exception:  # over one object that somebody made; all others go on
                    _log.exception("the pools cannot be compared with a list: a bug of ours")

    async def _compare(self, namespace: str | None) -> None:
        """Forgets pools that are not there any more, and asks for those that are not as they are remembered."""
        # Taken before the list: what a watch tells of meanwhile is younger.
        known = [record for record in self._registry if namespace in (None, record.body["metadata"]["namespace"])]
        path = paths.pools(namespace)
        listed = {
            PoolKey.of(item): item["metadata"]
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
        }
        for record in known:
            if (
                listed.get(PoolKey.of(record.body), {}).get("uid") != record.uid
                and self._registry.get(record.key) is record
            ):
                _log.warning("%s: no watch told of its deletion", record.key)
                self.pool_removed(record.body)
        for key, metadata in listed.items():
            if not self._is_known(key, metadata):
                await self._ask_for(key)
        if self._view is not None and self._view.is_synced:
            # Left by an operator that died before it could remove them: no pool owns them, or one does that uses
            # another broker now.
            for exporter in starmap(ExporterKey, self._view.exporters(namespace)):
                if not self._registry.of_broker(exporter.broker_key):
                    self._queue.add(exporter)

    def _is_known(self, key: PoolKey, metadata: dict[str, Any]) -> bool:
        record = self._registry.get(key.text)
        if record is None:
            return "deletionTimestamp" in metadata
        parsed = record.pool.generation if record.pool is not None else metadata["generation"]
        same = (record.uid, record.body["metadata"]["resourceVersion"], parsed)
        return same == (metadata["uid"], metadata["resourceVersion"], metadata["generation"])

    async def _ask_for(self, key: PoolKey) -> None:
        """Takes one pool from the API server itself."""
        record = self._registry.get(key.text)
        before = record.body if record is not None else None
        path = paths.pools(key.namespace)
        found = (await self._client.get(path, {"fieldSelector": f"metadata.name={key.name}"})).get("items") or ()
        if self._registry.get(key.text) is not record or (record is not None and record.body is not before):
            return  # told of meanwhile
        if record is not None and all(item["metadata"]["uid"] != record.uid for item in found):
            self.pool_removed(record.body)
        for item in found:
            # Items of a list do not say what they are; those that a watch tells of do.
            self.pool_changed({"apiVersion": API_VERSION, "kind": KIND, **item}, certain=True)

    async def _until_resync_or_lost(self, gained: asyncio.Event) -> None:
        due = time.monotonic() + _RESYNC_SECONDS
        while gained.is_set() and time.monotonic() < due:
            self._queue.retry_refused()
            await asyncio.sleep(1.0)

    def _enqueue_exporters(self, pools: Iterable[GreenWorkerPool]) -> None:
        for pool in pools:
            self._queue.add(ExporterKey.of(pool))

    def _enqueue_conflicting(self, pools: Iterable[GreenWorkerPool]) -> None:
        """Whoever is or was in conflict with one of these pools."""
        for pool in pools:
            for conflicting in self._registry.conflicting_pools(pool):
                self._queue.add(PoolKey(conflicting.namespace, conflicting.name))

    async def _work(self, key: Key) -> None:
        if self._reconciler is None or self._status is None or self._view is None:
            raise RuntimeError("start_with was not called")
        if not (self._view.is_synced and self._knows_all_pools):
            self._queue.add_later(key, 0.2)
            return
        outcome = "error"
        try:
            with self._metrics.reconcile_seconds.time():
                match key:
                    case DoubtfulPoolKey(pool):
                        await self._ask_for(pool)
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
        assert self._reconciler is not None
        assert self._status is not None
        record = self._registry.get(key.text)
        if record is None:
            return
        again = await self._reconciler.reconcile_pool(record)
        await self._status.sync(record)
        if again is not None:
            self._queue.add_later(key, again)

    async def _work_on_exporter(self, key: ExporterKey) -> None:
        assert self._exporters is not None
        assert self._status is not None
        before = self._registry.exporter(key.broker_key).refused
        again = await self._exporters.reconcile(key)
        if again is not None:
            self._queue.add_later(key, again)
        pools = self._registry.of_broker(key.broker_key)
        if pools and self._registry.exporter(key.broker_key).refused != before:
            for pool in pools:
                if (record := self._registry.get(pool.key)) is not None:
                    await self._status.sync(record)


def _keys_of(record: Record) -> Iterator[Key]:
    yield PoolKey.of(record.body)
    if record.pool is not None:
        yield ExporterKey.of(record.pool)
