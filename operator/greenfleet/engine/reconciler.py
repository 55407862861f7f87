"""Brings the children of a pool, and the exporter of a broker, to what the specs say. Idempotent, level-triggered."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from greenfleet.api import GreenWorkerPool, PoolSpec
from greenfleet.engine.fleet_view import FleetView, owns_replicas
from greenfleet.engine.managers import AUTOSCALER, RECONCILER
from greenfleet.engine.registry import Record, Registry, Stall
from greenfleet.kube import paths
from greenfleet.kube.client import Client, InvalidError
from greenfleet.kube.events import EventRecorder
from greenfleet.resources import children_of_pool, exporter_children, names
from greenfleet.resources.names import AGENT_ANNOTATION, Role
from greenfleet.settings import WorkerImage

_log = logging.getLogger(__name__)

GENERATION_ANNOTATION = f"{names.PREFIX}/pool-generation"
"""On a fleet's Deployment: the pool's generation that its pod template was made from."""


class Reconciler:
    """Applies children under the field manager `greenfleet-reconciler`."""

    def __init__(
        self, client: Client, registry: Registry, view: FleetView, events: EventRecorder, image: WorkerImage
    ) -> None:
        self._client = client
        self._events = events
        self._registry = registry
        self._view = view
        self._image = image
        self._exporters = asyncio.Lock()

    async def reconcile_pool(self, record: Record) -> None:
        """Applies what belongs to one pool. A refusal by the API server is kept in the record; other errors are raised."""
        pool = record.pool
        if pool is None:
            return
        record.refused = self._registry.conflict(pool)
        if record.refused is not None:
            return
        agent_image = self._pinned_agent(pool)
        children = children_of_pool(pool, agent_image, self._image.image_pull_policy, record.routes(time.time()))
        try:
            for child in children:
                manifest = child.manifest
                if child.is_deployment:
                    self._hand_over_replicas(pool, manifest)
                await self._client.apply(paths.of(manifest), manifest, RECONCILER)
        except InvalidError as error:
            record.refused = Stall(
                "Refused", f"the API server refused an object of this pool: {error}: correct the spec"
            )
            return
        await self._remove_companion(pool)
        for fleet in record.fleets.values():
            fleet.start_threads = None  # the ConfigMap may have been made anew, without the autoscaler's part
        if record.reconciled_generation != pool.generation:
            await self._warn(pool)
        record.reconciled_generation = pool.generation

    async def _warn(self, pool: GreenWorkerPool) -> None:
        """What the spec says and the mode ignores."""
        if (
            pool.spec.manual_replicas != PoolSpec.model_fields["manual_replicas"].default
            and pool.spec.scaling.mode != "manual"
        ):
            note = (
                f"spec.manualReplicas is {pool.spec.manual_replicas}, and scaling.mode is {pool.spec.scaling.mode}, in which it "
                "counts for nothing: set scaling.mode to manual, or leave the number of workers to the operator"
            )
            await self._events.warning(pool, "ManualReplicasIgnored", note)

    async def reconcile_exporter(self, broker_key: str) -> None:
        """Applies the exporter of one broker from the full list of its pools, and removes the one that nobody needs any more."""
        async with self._exporters:
            pools = self._registry.of_broker(broker_key)
            if not pools:
                await self._remove_exporter(broker_key)
                return
            image = self._image
            manifest = exporter_children(pools, image.image, image.image_pull_policy, image.image_pull_secrets)
            try:
                await self._client.apply(paths.of(manifest), manifest, RECONCILER)
            except InvalidError as error:
                for pool in pools:
                    record = self._registry.get(pool.key)
                    if record is not None:
                        record.refused = Stall(
                            "Refused", f"the API server refused the queue exporter: {error}: correct the spec"
                        )

    async def _remove_exporter(self, broker_key: str) -> None:
        """For a pool that moved to another broker: it still owns the old exporter, so that nobody collects it."""
        namespace, secret, key = broker_key.split("/", 2)
        name = names.exporter_name(secret, key)
        unreadable = any(record.pool is None and record.key.startswith(f"{namespace}/") for record in self._registry)
        if self._view.deployment(namespace, name) is not None and not unreadable:
            await self._client.delete(f"{paths.collection('apps/v1', 'Deployment', namespace)}/{name}")

    def _hand_over_replicas(self, pool: GreenWorkerPool, manifest: dict[str, Any]) -> None:
        """Sends `replicas` until the autoscaler owns it: an apply without it would default it to 1."""
        live = self._view.deployment(pool.namespace, manifest["metadata"]["name"])
        if live is None:
            manifest["spec"]["replicas"] = pool.spec.replicas.min if _role(manifest) == Role.EVENTLET else 0
        elif not owns_replicas(live, AUTOSCALER):
            manifest["spec"]["replicas"] = live["spec"].get("replicas", 0)
        manifest["metadata"].setdefault("annotations", {})[GENERATION_ANNOTATION] = str(pool.generation)

    def _pinned_agent(self, pool: GreenWorkerPool) -> str:
        """The agent's image: kept until the spec changes, so that an upgraded operator does not restart all fleets at once."""
        live = self._view.deployment(pool.namespace, names.fleet_name(pool.name, Role.EVENTLET))
        if live is None:
            return self._image.image
        annotations = live["metadata"].get("annotations") or {}
        template = (live["spec"]["template"]["metadata"].get("annotations") or {}).get(AGENT_ANNOTATION)
        unchanged = annotations.get(GENERATION_ANNOTATION) == str(pool.generation)
        return str(template) if unchanged and template else self._image.image

    async def _remove_companion(self, pool: GreenWorkerPool) -> None:
        name = names.fleet_name(pool.name, Role.PREFORK)
        if pool.spec.prefork is not None or self._view.deployment(pool.namespace, name) is None:
            return
        for api_version, kind in (("apps/v1", "Deployment"), ("policy/v1", "PodDisruptionBudget")):
            await self._client.delete(f"{paths.collection(api_version, kind, pool.namespace)}/{name}")


def _role(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["labels"][names.ROLE_LABEL])
