"""Applies children, asks whose an object is that has the name of one, and removes what is not wanted any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.field_managers import RECONCILER
from greenfleet.k8s import paths
from greenfleet.k8s.client import Client, NotFoundError
from greenfleet.manifests import Child

_Object = dict[str, Any]

_TAKEN_SECONDS, _TAKEN_AT_MOST_SECONDS = 10.0, 120.0
"""When a name that is taken is asked about again, twice as long each time: nobody tells when the other object goes."""
REFUSED_SECONDS = 60.0
"""How often what the API server refused is tried again: the rule that refused it may be another one by now."""


def taken_seconds(refusals: int) -> float:
    """When to ask again about a name that was taken so often in a row."""
    return min(_TAKEN_AT_MOST_SECONDS, _TAKEN_SECONDS * 2.0 ** min(refusals - 1, 10))


class Applier:
    """Writes under the field manager `greenfleet-reconciler`."""

    def __init__(self, client: Client, view: ClusterCache) -> None:
        self._client = client
        self._view = view

    async def taken(
        self, children: Iterable[Child], is_own: Callable[[_Object], bool], config_uid: str | None = None
    ) -> tuple[Child, _Object] | None:
        """The first child whose name an object of somebody else has, and that object. All others are bound to the
        objects that are there: an apply can then neither take over nor bring back what has changed hands meanwhile.

        What no watch shows is asked for: an object may be there without the label that the watches select by.
        """
        for child in children:
            metadata = child.manifest["metadata"]
            if child.kind == "ConfigMap" and config_uid is not None:
                metadata["uid"] = config_uid  # ours when it was applied last
                continue
            found = await self.find(child)
            if found is not None and not is_own(found):
                return child, found
            if found is not None:
                metadata["uid"] = found["metadata"]["uid"]
        return None

    async def find(self, child: Child) -> _Object | None:
        """The object of a child's name, whoever's it is: as a watch shows it, else as the API server says."""
        namespace = child.manifest["metadata"]["namespace"]
        seen = self._view.child(child.kind, namespace, child.name)
        if seen is not None:
            return seen
        if child.kind == "ConfigMap":
            return await self._client.peek(paths.of(child.manifest))
        path = paths.collection(child.manifest["apiVersion"], child.kind, namespace)
        try:
            found = await self._client.get(path, {"fieldSelector": f"metadata.name={child.name}"})
        except NotFoundError:
            return None  # the API of PodMonitors has gone
        return next(iter(found.get("items") or ()), None)

    async def apply(self, child: Child) -> _Object:
        """Applies to the object that was found, or makes one: without force, in case somebody else has made one just
        now.
        """
        manifest = child.manifest
        try:
            return await self._client.apply(
                paths.of(manifest), manifest, RECONCILER, force="uid" in manifest["metadata"]
            )
        except NotFoundError:
            if child.kind != "PodMonitor":
                raise  # the namespace is gone; but the API of PodMonitors may go while everything else stays
            return manifest

    async def remove_unwanted(
        self,
        namespace: str,
        possible: Iterable[tuple[str, str, str]],
        wanted: Iterable[Child],
        is_own: Callable[[_Object], bool],
    ) -> None:
        """Deletes what exists of `possible` (API version, kind, name), is our own and is not wanted any more."""
        kept = {(child.kind, child.name) for child in wanted}
        for api_version, kind, name in possible:
            found = self._view.child(kind, namespace, name)
            if (kind, name) not in kept and found is not None and is_own(found):
                path = f"{paths.collection(api_version, kind, namespace)}/{name}"
                await self._client.delete(path, found["metadata"]["uid"])
