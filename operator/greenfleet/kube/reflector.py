"""A local copy of the objects that carry a label, kept up to date by list and watch.

The label narrows on the server, so that a cluster with 10,000 other pods costs nothing here; kopf's watches cannot do that.
Follows the protocol of Kubernetes' "API concepts": list, watch from its resourceVersion, bookmarks, start over at 410.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from greenfleet.kube.client import ApiError, Client, GoneError, Object

_log = logging.getLogger(__name__)

_MAX_BACKOFF_SECONDS = 30.0


def slim(item: Object) -> Object:
    """An object without most of the bookkeeping of who wrote what, which is half of its memory: only who owns `replicas` stays."""
    owners = [
        {"manager": entry.get("manager", ""), "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in item["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return {**item, "metadata": {**item["metadata"], "managedFields": owners}}


class Reflector:
    """Objects of one collection by `namespace/name`. `changed(old, new)` is told of every difference; either may be None.

    `kept` makes of each object what is worth the memory; it has to leave name, namespace and resourceVersion.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        label_selector: str,
        changed: Callable[[Object | None, Object | None], None],
        *,
        kept: Callable[[Object], Object] = slim,
    ) -> None:
        self._client = client
        self._kept = kept
        self._path = path
        self._selector = label_selector
        self._changed = changed
        self._objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        """Set once the first list is complete."""

    def get(self, key: str) -> Object | None:
        """The object called `namespace/name`, or None."""
        return self._objects.get(key)

    async def run(self) -> None:
        """Keeps the copy up to date until cancelled; errors of the API server only delay it."""
        failures = 0
        while True:
            try:
                version = await self._list()
                self.synced.set()
                failures = 0
                while True:
                    version = await self._watch(version)
            except GoneError:
                continue
            except ApiError as error:
                failures += 1
                delay = min(_MAX_BACKOFF_SECONDS, 0.5 * 2**failures) * random.uniform(0.5, 1.0)
                _log.warning("watching %s failed, again in %.0f s: %s", self._path, delay, error)
                await asyncio.sleep(delay)

    async def _list(self) -> str:
        listed: dict[str, Object] = {}
        version = ""
        async for page in self._client.pages(self._path, {"labelSelector": self._selector}):
            listed.update((_key(item), self._kept(item)) for item in page.get("items", ()))
            version = str(page["metadata"]["resourceVersion"])
        for key in self._objects.keys() - listed.keys():
            self._put(key, None)
        for key, item in listed.items():
            self._put(key, item)
        return version

    async def _watch(self, version: str) -> str:
        query = {"labelSelector": self._selector, "resourceVersion": version}
        async for kind, item in self._client.watch(self._path, query):
            version = item["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                self._put(_key(item), None if kind == "DELETED" else self._kept(item))
        return version

    def _put(self, key: str, item: Object | None) -> None:
        old = self._objects.get(key)
        if item is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = item
        if old is None or item is None or _version(old) != _version(item):
            self._changed(old, item)


def _key(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])
