"""Brings the queue exporter of a broker to what the specs of all its pools say. Idempotent, level-triggered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from greenfleet.api import GreenWorkerPool
from greenfleet.controller.applier import REFUSED_SECONDS, Applier, taken_seconds
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.keys import ExporterKey
from greenfleet.controller.monitors import PodMonitors
from greenfleet.controller.ownership import is_exporters_own, taken_from_exporter
from greenfleet.controller.registry import Registry
from greenfleet.k8s import paths
from greenfleet.k8s.client import Client, InvalidError, NotFoundError
from greenfleet.manifests import Child, exporter_children, names
from greenfleet.manifests.exporter import config_of_gone_exporter, optional_exporter_children, queues_digest
from greenfleet.manifests.pods import USUAL, PodDefaults
from greenfleet.settings import WorkerImage
from greenfleet.status.stalled import StalledReason

_GONE_SECONDS = 0.5
"""Until an exporter is looked at again of whose pools some are gone, and the watch has not said so."""

_TOUCH_SECONDS = 0.5
"""Between the two times that an exporter's pods are touched after their list of queues has changed."""


class ExporterReconciler:
    """Applies exporters, one at a time."""

    def __init__(
        self,
        client: Client,
        registry: Registry,
        view: ClusterCache,
        applier: Applier,
        *,
        image: WorkerImage,
        monitors: PodMonitors,
        pod_defaults: PodDefaults = USUAL,
    ) -> None:
        self._client = client
        self._registry = registry
        self._view = view
        self._applier = applier
        self._image = image
        self._monitors = monitors
        self._pod_defaults = pod_defaults
        self._one_at_a_time = asyncio.Lock()

    async def reconcile(self, key: ExporterKey) -> float | None:
        """Applies the exporter of one broker from the full list of its pools, and removes the one that nobody needs any
        more.

        A refusal is kept until one succeeds. Returns the seconds after which to try again.
        """
        async with self._one_at_a_time:
            again, digest = await self._apply(key)
        if digest is not None:
            await self._tell(key, digest)
        return again

    async def _apply(self, key: ExporterKey) -> tuple[float | None, str | None]:
        """Seconds after which to try again, and what names the list of queues that was applied."""
        pools = self._registry.of_broker(key.broker_key)
        if not pools:
            self._registry.forget_exporter(key.broker_key)
            await self._remove(key)
            return None, None
        image = self._image
        children = exporter_children(
            pools,
            image.image,
            image.image_pull_policy,
            image.image_pull_secrets,
            self._monitors.monitoring,
            defaults=self._pod_defaults,
        )
        name = names.exporter_name(pools[0].spec.broker.identity)
        state = self._registry.exporter(key.broker_key)
        try:
            if (taken := await self._applier.taken(children, lambda found: is_exporters_own(found, name))) is not None:
                state.refused, state.refusals = taken_from_exporter(*taken, pools[0]), state.refusals + 1
                return taken_seconds(state.refusals), None
            if any("uid" not in child.manifest["metadata"] for child in children if child.kind != "PodMonitor"):
                there = await self._there(pools, pools[0].namespace)
                if len(there) < len(pools):
                    return (_GONE_SECONDS if there else None), None  # who is gone, the watch will tell
            for child in children:
                await self._applier.apply(child)
        except InvalidError as error:
            text = f"the API server refused the queue exporter: {error}: correct the spec"
            state.refused, state.refusals = StalledReason("Refused", text), state.refusals + 1
            return REFUSED_SECONDS, None
        state.refused, state.refusals = None, 0
        await self._applier.remove_unwanted(
            pools[0].namespace,
            optional_exporter_children(name),
            children,
            lambda found: is_exporters_own(found, name),
        )
        return None, queues_digest(children)

    async def _there(self, pools: Iterable[GreenWorkerPool], namespace: str) -> list[GreenWorkerPool]:
        """Those pools that the API server has and that do not go: the deletion of what they own may arrive before
        their own.
        """
        path = paths.pools(namespace)
        alive = {
            item["metadata"]["uid"]
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
            if "deletionTimestamp" not in item["metadata"]
        }
        return [pool for pool in pools if pool.uid in alive]

    async def _tell(self, key: ExporterKey, digest: str) -> None:
        """Has kubelet show the exporter's pods the list of queues at once: a ConfigMap alone is shown within a minute
        or two, the one of a pod that changed without delay. Twice, because kubelet may have the new pod and
        not yet the new ConfigMap.
        """
        pods = [
            pod["metadata"]["name"]
            for pod in self._view.exporter_pods(key.namespace, names.exporter_name(key.broker))
            if (pod["metadata"].get("annotations") or {}).get(names.QUEUES_ANNOTATION) != digest
        ]
        for annotation, value in ((f"{names.QUEUES_ANNOTATION}-touched", digest), (names.QUEUES_ANNOTATION, digest)):
            for pod in pods:
                with contextlib.suppress(NotFoundError):
                    patch = {"metadata": {"annotations": {annotation: value}}}
                    await self._client.merge_patch(f"{paths.pod(key.namespace, pod)}/status", patch)
            if pods and annotation != names.QUEUES_ANNOTATION:
                await asyncio.sleep(_TOUCH_SECONDS)

    async def _remove(self, key: ExporterKey) -> None:
        """For a pool that moved to another broker: it still owns the old exporter, so that nobody collects it."""
        namespace, name = key.namespace, names.exporter_name(key.broker)
        unreadable = any(record.pool is None and record.key.startswith(f"{namespace}/") for record in self._registry)
        if not unreadable:

            def is_own(found: dict[str, Any]) -> bool:
                return is_exporters_own(found, name)

            await self._applier.remove_unwanted(namespace, optional_exporter_children(name), (), is_own)
            await self._leave_to_collector(config_of_gone_exporter(namespace, name), name)
            # The last: as long as anything is left, it says so (`ClusterCache.exporters`), also to an operator that
            # starts now.
            await self._applier.remove_unwanted(namespace, (("apps/v1", "Deployment", name),), (), is_own)

    async def _leave_to_collector(self, config: Child, exporter: str) -> None:
        """Has the garbage collector take the ConfigMap of an exporter that is gone, while pools that owned it stay: the
        operator may not delete ConfigMaps, which would be a right over everybody's.
        """
        found = await self._client.peek(paths.of(config.manifest))
        if found is not None and is_exporters_own(found, exporter):
            config.manifest["metadata"]["uid"] = found["metadata"]["uid"]
            await self._applier.apply(config)  # a conflict is tried again: it may be gone, or another one may be there
