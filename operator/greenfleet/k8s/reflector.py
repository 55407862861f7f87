"""A local copy of the objects that carry a label, kept up to date by list and watch.

The label narrows on the server, so that a cluster with 10,000 other pods costs nothing here. Follows the protocol of
Kubernetes' "API concepts": list, watch from its resourceVersion, bookmarks, start over at 410.

Why not `kopf.on.event`, whose watches have label selectors as well (`settings.watching.label_selectors`, kopf 1.45). It
was tried:

- Missed deletions. After a 410 kopf lists anew and reports what is there. What went meanwhile is reported by nobody, so
  a second list and a comparison would be needed for each kind, as the controller does for pools. Here the list itself
  is the comparison.
- The end of the first list. kopf knows it and tells no handler. Here it is `synced`.
- Errors. Any error in kopf's stream but 410 ends the operator. Here it costs a list.
- Cost. kopf makes a queue, a task and a memory for each object. With 9,000 objects the first list took fifteen times as
  long, ten times the CPU, and twice the memory.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator

from greenfleet.k8s.client import ApiError, Client, GoneError, Object, TransientError

_log = logging.getLogger(__name__)

_MAX_BACKOFF_SECONDS = 30.0
_WORKED_SECONDS = 1.0
"""A watch that lasted so long has worked, even if nothing was to be told."""


def strip_managed_fields(item: Object) -> Object:
    """An object without most of the bookkeeping of who wrote what, which is half of its memory: only who owns
    `replicas` stays.
    """
    owners = [
        {"manager": entry.get("manager", ""), "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in item["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return {**item, "metadata": {**item["metadata"], "managedFields": owners}}


class Reflector:
    """Objects of one collection by `namespace/name`. `changed(old, new)` is called for every difference; either may be
    None.

    `kept` makes of each object what is worth the memory; it has to leave name, namespace and resourceVersion.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        label_selector: str,
        changed: Callable[[Object | None, Object | None], None],
        *,
        kept: Callable[[Object], Object] = strip_managed_fields,
    ) -> None:
        self._client = client
        self._kept = kept
        self._path = path
        self._selector = label_selector
        self._changed = changed
        self._objects: dict[str, Object] = {}
        self._failures = 0
        self.synced = asyncio.Event()
        """Set once the first list is complete."""

    def get(self, key: str) -> Object | None:
        """The object called `namespace/name`, or None."""
        return self._objects.get(key)

    def objects(self) -> list[Object]:
        """All that are known."""
        return list(self._objects.values())

    async def run(self) -> None:
        """Keeps the copy up to date until cancelled; errors of the API server only delay it."""
        self._failures = 0
        while True:
            try:
                version = await self._list()
                self.synced.set()
                while True:
                    version = await self._watch(version)
            except GoneError as error:
                if self._failures:  # else a watch that had worked: it is what the protocol says, and costs one list
                    await self._pause(error)
                self._failures += 1
            except ApiError as error:
                self._failures += 1
                await self._pause(error)

    async def _pause(self, error: ApiError | None = None) -> None:
        """Longer with every failure in a row, and as long as the API server asks for."""
        backoff = min(_MAX_BACKOFF_SECONDS, 0.5 * 2.0 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        delay = (error.retry_after_seconds if error else None) or backoff
        _log.warning("watching %s failed, again in %.1f s: %s", self._path, delay, error or "it ended at once")
        await asyncio.sleep(delay)

    async def _list(self) -> str:
        listed: dict[str, Object] = {}
        version = ""
        async for page in self._client.pages(self._path, {"labelSelector": self._selector}):
            listed.update((_key(item), item) for item in self._outlines(page.get("items") or ()))
            version = str(page["metadata"].get("resourceVersion", ""))
        if not version:
            raise TransientError(f"the API server answered GET {self._path} with something that is no list")
        for key in self._objects.keys() - listed.keys():
            self._put(key, None)
        for key, item in listed.items():
            self._put(key, item)
        return version

    async def _watch(self, version: str) -> str:
        query = {"labelSelector": self._selector, "resourceVersion": version}
        opened = time.monotonic()
        async for kind, item in self._client.watch(self._path, query):
            self._failures = 0
            version = item["metadata"]["resourceVersion"]
            if kind == "DELETED":
                self._put(_key(item), None)
            elif kind != "BOOKMARK":
                for kept in self._outlines([item]):
                    self._put(_key(item), kept)
        if time.monotonic() - opened >= _WORKED_SECONDS:
            self._failures = 0
        else:
            self._failures += 1
            await self._pause()
        return version

    def _outlines(self, items: Iterable[Object]) -> Iterator[Object]:
        """What is kept of each. One object, which anybody may have labelled, must not end the process for all."""
        for item in items:
            try:
                yield self._kept(item)
            except Exception:
                _log.exception("%s %s: it is passed over: a bug of ours", self._path, _key(item))

    def _put(self, key: str, item: Object | None) -> None:
        old = self._objects.get(key)
        if item is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = item
        if old is None or item is None or _version(old) != _version(item):
            try:
                self._changed(old, item)
            except Exception:
                _log.exception("%s %s: it is passed over: a bug of ours", self._path, key)


def _key(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])
