"""The pools in memory, compared with the API server's list of them: at first to know all before anything is written,
then because a watch may miss something.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import starmap
from typing import Any

from greenfleet.api import API_VERSION, KIND
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.enqueuer import Enqueuer
from greenfleet.controller.keys import ExporterKey, PoolKey
from greenfleet.controller.registry import Registry
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client

_log = logging.getLogger(__name__)

_INITIAL_LIST_SECONDS = 60.0
"""How long kopf may take to tell of the pools that there are."""
_LIST_AGAIN_SECONDS = 2.0
"""After that those that it has not told of are looked for again: one that goes before its own list is never told of."""
_COMPARE_SECONDS = 15.0
"""The pools in memory are compared with a list so often: a watch that broke off or went silent may have missed a
deletion or a creation.
"""


class PoolList:
    """Tells `enqueuer` of what no watch told of. *namespaces*: none named, all of them."""

    def __init__(
        self,
        client: Client,
        registry: Registry,
        enqueuer: Enqueuer,
        view: ClusterCache,
        namespaces: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._registry = registry
        self._enqueuer = enqueuer
        self._view = view
        self._namespaces = namespaces
        self.is_complete = False
        """Whether every pool is known that there was at the start."""

    async def wait_for_initial_list(self) -> None:
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
        self.is_complete = True

    async def _list(self, namespace: str | None) -> set[PoolKey]:
        path = paths.pools(namespace)
        return {
            PoolKey.of(item)
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
            if "deletionTimestamp" not in item["metadata"]
        }

    async def keep_comparing(self) -> None:
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
            PoolKey.of(item): _version(item["metadata"])
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
        }
        for record in known:
            if (
                listed.get(PoolKey.of(record.body), {}).get("uid") != record.uid
                and self._registry.get(record.key) is record
            ):
                _log.warning("%s: no watch told of its deletion", record.key)
                self._enqueuer.pool_removed(record.body)
        for key, metadata in listed.items():
            if not self._is_known(key, metadata):
                await self.ask_for(key)
        if self._view.is_synced:
            # Left by an operator that died before it could remove them: no pool owns them, or one does that uses
            # another broker now.
            for exporter in starmap(ExporterKey, self._view.exporters(namespace)):
                if not self._registry.of_broker(exporter.broker_key):
                    self._enqueuer.exporter_left(exporter)

    def _is_known(self, key: PoolKey, metadata: dict[str, Any]) -> bool:
        record = self._registry.get(key.text)
        if record is None:
            return "deletionTimestamp" in metadata
        parsed = record.pool.generation if record.pool is not None else metadata["generation"]
        same = (record.uid, record.body["metadata"]["resourceVersion"], parsed)
        return same == (metadata["uid"], metadata["resourceVersion"], metadata["generation"])

    async def ask_for(self, key: PoolKey) -> None:
        """Takes one pool from the API server itself."""
        record = self._registry.get(key.text)
        before = record.body if record is not None else None
        path = paths.pools(key.namespace)
        found = (await self._client.get(path, {"fieldSelector": f"metadata.name={key.name}"})).get("items") or ()
        if self._registry.get(key.text) is not record or (record is not None and record.body is not before):
            return  # told of meanwhile
        if record is not None and all(item["metadata"]["uid"] != record.uid for item in found):
            self._enqueuer.pool_removed(record.body)
        for item in found:
            # Items of a list do not say what they are; those that a watch tells of do.
            self._enqueuer.pool_changed({"apiVersion": API_VERSION, "kind": KIND, **item}, certain=True)


def _version(metadata: dict[str, Any]) -> dict[str, Any]:
    """What says whether a pool is known as it is, without the rest, which is most of a list."""
    kept = ("uid", "resourceVersion", "generation", "deletionTimestamp")
    return {name: metadata[name] for name in kept if name in metadata}
