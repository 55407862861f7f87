"""Brings the children of a pool, and the exporter of a broker, to what the specs say. Idempotent, level-triggered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from greenfleet.api import GROUP, KIND, VERSION, GreenWorkerPool, PoolSpec
from greenfleet.engine.fleet_view import FleetView, is_rolled_out, owns_replicas
from greenfleet.engine.managers import AUTOSCALER, RECONCILER
from greenfleet.engine.monitors import PodMonitors
from greenfleet.engine.ownership import is_exporters_own, is_pools_own, taken_from_exporter, taken_from_pool
from greenfleet.engine.pinning import choose, template_digest
from greenfleet.engine.registry import Record, Registry, Stall
from greenfleet.kube import paths
from greenfleet.kube.client import Client, ConflictError, InvalidError, NotFoundError
from greenfleet.kube.events import EventRecorder
from greenfleet.resources import Child, children_of_pool, exporter_children, names
from greenfleet.resources.children import optional_children, pool_config_child
from greenfleet.resources.exporter import config_of_gone_exporter, optional_exporter_children, queues_digest
from greenfleet.resources.names import Role
from greenfleet.resources.worker import fleet_deployment
from greenfleet.settings import WorkerImage

_log = logging.getLogger(__name__)

_Object = dict[str, Any]

_TURN_SECONDS = 5.0
"""How often a fleet that waits for its turn asks again."""
_ATTEMPTS = 5
"""How often a Deployment that changed under our hands is looked at again, before the work queue backs off."""
_SEEN_LOOKS = 50
"""Times 20 ms: how long the watch may take to tell of a change, when the API server has refused an older version."""
_TOUCH_SECONDS = 0.5
"""Between the two times that an exporter's pods are touched after their list of queues has changed."""
_TAKEN_SECONDS = 10.0
"""How often a pool asks again whose name is taken: nobody tells when the other object goes."""
_REFUSED_SECONDS = 60.0
"""How often what the API server refused is tried again: the rule that refused it may be another one by now."""
_UPGRADE_SECONDS = 600.0
"""A fleet that cannot roll out (a broken image, no node) holds the others up for so long."""


@dataclass(frozen=True, slots=True)
class _Upgrade:
    """A fleet on its way to the template of an upgraded operator."""

    namespace: str
    name: str
    template: str | None
    """The digest that the Deployment has as soon as it is applied."""
    deadline: float


class Reconciler:
    """Applies children under the field manager `greenfleet-reconciler`."""

    def __init__(
        self,
        client: Client,
        registry: Registry,
        view: FleetView,
        events: EventRecorder,
        *,
        image: WorkerImage,
        monitors: PodMonitors,
    ) -> None:
        self._client = client
        self._events = events
        self._registry = registry
        self._view = view
        self._image = image
        self._monitors = monitors
        self._exporters = asyncio.Lock()
        self._upgrading: _Upgrade | None = None

    async def reconcile_pool(self, record: Record) -> float | None:
        """Applies what belongs to one pool. A refusal by the API server is kept in the record; other errors are raised.

        Returns the seconds after which to look again, if something has to wait for its turn.
        """
        pool = record.pool
        if pool is None:
            return None
        if (conflict := self._registry.conflict(pool)) is not None:
            record.refused = conflict
            return None
        if await self._goes(record, pool):
            return None
        image = self._image
        children = children_of_pool(
            pool, image.image, image.image_pull_policy, record.routes(time.time()), self._monitors.monitoring
        )
        waits = False
        try:
            if (
                taken := await self._taken(children, lambda found: is_pools_own(found, pool.name), record.config_uid)
            ) is not None:
                record.refused = taken_from_pool(*taken, pool)
                return _TAKEN_SECONDS
            for child in children:
                if child.is_deployment:
                    waits |= not await self._apply_fleet(record, pool, child)
                elif child.kind == "ConfigMap":
                    await self._apply_config(record, child)
                else:
                    await self._apply(child)
        except InvalidError as error:
            record.refused = Stall(
                "Refused", f"the API server refused an object of this pool: {error}: correct the spec"
            )
            return _REFUSED_SECONDS
        record.refused = None
        await self._remove_unwanted(
            pool.namespace, optional_children(pool), children, lambda found: is_pools_own(found, pool.name)
        )
        if record.reconciled_generation != pool.generation:
            await self._warn(pool)
        record.reconciled_generation = pool.generation
        return _TURN_SECONDS if waits else None

    async def _goes(self, record: Record, pool: GreenWorkerPool) -> bool:
        """Whether the pool is gone or going. Asked of the API server itself, if a child changed since it was asked last.

        What the collector does to the children of a pool that goes looks like drift, and the operator may be told of it before it
        is told of the deletion: with `--cascade=orphan` the owner is taken off them, and putting it back would end the workers.
        """
        if self._registry.get(record.key) is not record:
            return True  # told meanwhile; of such a record no drift is noted any more
        if not record.drifted:
            return False
        record.drifted = False
        path = paths.collection(f"{GROUP}/{VERSION}", KIND, pool.namespace)
        found = await self._client.get(path, {"fieldSelector": f"metadata.name={pool.name}"})
        return not any(
            one["metadata"]["uid"] == pool.uid and "deletionTimestamp" not in one["metadata"]
            for one in found.get("items") or ()
        )

    async def _taken(
        self, children: Iterable[Child], is_own: Callable[[_Object], bool], config_uid: str | None = None
    ) -> tuple[Child, _Object] | None:
        """The first child whose name an object of somebody else has, and that object. All others are bound to the objects that are there:
        an apply can then neither take over nor bring back what has changed hands meanwhile.

        What no watch shows is asked for: an object may be there without the label that the watches select by.
        """
        for child in children:
            metadata = child.manifest["metadata"]
            if child.kind == "ConfigMap" and config_uid is not None:
                metadata["uid"] = config_uid  # ours when it was applied last
                continue
            found = await self._find(child)
            if found is not None and not is_own(found):
                return child, found
            if found is not None:
                metadata["uid"] = found["metadata"]["uid"]
        return None

    async def _find(self, child: Child) -> _Object | None:
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

    async def repair_config(self, record: Record) -> None:
        """Applies the ConfigMap of a settled pool again. It costs one request, which changes nothing unless somebody else did.

        Raises ConflictError where the ConfigMap is not the one that was applied last: the pool has to be reconciled.
        """
        pool = record.pool
        if pool is None or record.refused is not None or record.reconciled_generation != pool.generation:
            return
        if self._registry.get(record.key) is not record:
            return  # deleted meanwhile: nothing may come back
        if record.config_uid is None:
            raise ConflictError("its ConfigMap is not known")
        child = pool_config_child(pool, record.routes(time.time()))
        child.manifest["metadata"]["uid"] = record.config_uid
        await self._apply_config(record, child)

    async def _apply_config(self, record: Record, child: Child) -> None:
        """Applies the reconciler's part of the ConfigMap; the answer shows whether the autoscaler's part is still there."""
        try:
            found = await self._apply(child)
        except ConflictError:
            record.config_uid = None  # it was deleted; the next reconciliation looks whose the one is that is there now
            raise
        record.config_applied_at = time.monotonic()
        record.config_uid = found["metadata"]["uid"]
        fleet = record.fleets.get(Role.EVENTLET)
        start = (found.get("data") or {}).get("threads")
        if fleet is not None and fleet.start_threads is not None and start != str(fleet.start_threads):
            fleet.start_threads = None  # the next tick writes the autoscaler's part

    async def _apply(self, child: Child) -> _Object:
        """Applies to the object that was found, or makes one: without force, in case somebody else has made one just now."""
        manifest = child.manifest
        try:
            return await self._client.apply(
                paths.of(manifest), manifest, RECONCILER, force="uid" in manifest["metadata"]
            )
        except NotFoundError:
            if child.kind != "PodMonitor":
                raise  # the namespace is gone; but the API of PodMonitors may go while everything else stays
            return manifest

    async def _apply_fleet(self, record: Record, pool: GreenWorkerPool, child: Child) -> bool:
        """Applies a fleet's Deployment. False if it has to wait until another fleet has taken an upgraded operator's template."""
        for _ in range(_ATTEMPTS):
            if await self._goes(record, pool):
                return True
            live = await self._find(child)
            if record.drifted:
                continue  # what was seen is younger than the answer
            if live is not None and not is_pools_own(live, pool.name):
                raise ConflictError(f"the Deployment {child.name} has just become somebody else's")
            try:
                return await self._apply_fleet_over(live, pool, child)
            except ConflictError:
                await self._until_seen(live, pool.namespace, child.name)
        raise ConflictError(f"the Deployment {child.name} changes faster than it can be read")

    async def _until_seen(self, old: dict[str, Any] | None, namespace: str, name: str) -> None:
        for _ in range(_SEEN_LOOKS):
            if self._view.deployment(namespace, name) is not old:
                return
            await asyncio.sleep(0.02)

    async def _apply_fleet_over(self, live: dict[str, Any] | None, pool: GreenWorkerPool, child: Child) -> bool:
        """Applies a fleet's Deployment to the version that was looked at, and to no other: replicas are handed over by what
        it says, and a version without its owner belongs to a pool that goes.
        """
        role = Role(_role(child.manifest))
        image = self._image

        def build(agent: str) -> dict[str, Any]:
            owners = child.manifest["metadata"]["ownerReferences"]
            manifest = fleet_deployment(pool, role, agent, image.image_pull_policy, image.image_pull_secrets)
            return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": owners}}

        choice = choose(live, build, image.image, pool.generation)
        if choice.upgrade and live is not None:
            if not self._may_upgrade(pool.namespace, child.name):
                return False
            # Taken before anything is awaited: several pools are reconciled at a time.
            deadline = time.monotonic() + _UPGRADE_SECONDS
            self._upgrading = _Upgrade(pool.namespace, child.name, template_digest(choice.manifest), deadline)
            _log.info("%s: %s takes this operator's pod template", pool.key, child.name)
        self._hand_over_replicas(pool, live, choice.manifest)
        if live is not None:
            choice.manifest["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        await self._client.apply(paths.of(choice.manifest), choice.manifest, RECONCILER, force=live is not None)
        return True

    def _may_upgrade(self, namespace: str, name: str) -> bool:
        """Whether no other fleet is on its way to this operator's template."""
        under_way = self._upgrading
        if under_way is None or (under_way.namespace, under_way.name) == (namespace, name):
            return True
        live = self._view.deployment(under_way.namespace, under_way.name)
        if live is None or time.monotonic() > under_way.deadline:
            return True
        return template_digest(live) == under_way.template and is_rolled_out(live)

    async def _warn(self, pool: GreenWorkerPool) -> None:
        """What the spec says and what does not count, or not as it is written."""
        if (
            pool.spec.manual_replicas != PoolSpec.model_fields["manual_replicas"].default
            and pool.spec.scaling.mode != "manual"
        ):
            note = (
                f"spec.manualReplicas is {pool.spec.manual_replicas}, and scaling.mode is {pool.spec.scaling.mode}, in which it "
                "counts for nothing: set scaling.mode to manual, or leave the number of workers to the operator"
            )
            await self._events.warning(pool, "ManualReplicasIgnored", note)
        for note in pool.out_of_bounds:
            await self._events.warning(pool, "OutOfBounds", note)
        results = pool.spec.result_backend
        for field, skips in (
            ("broker", pool.spec.broker.insecure_skip_verify),
            ("resultBackend", results is not None and results.insecure_skip_verify),
        ):
            if skips:
                note = (
                    f"{field}.insecureSkipVerify is true, so that its certificate is not checked, and whoever answers in its place gets "
                    f"the password: name the CA in {field}.caSecretRef, and remove insecureSkipVerify"
                )
                await self._events.warning(pool, "TlsNotVerified", note)

    async def reconcile_exporter(self, broker_key: str) -> float | None:
        """Applies the exporter of one broker from the full list of its pools, and removes the one that nobody needs any more.

        A refusal is kept in the registry, until one succeeds. Returns the seconds after which to try again.
        """
        async with self._exporters:
            again, digest = await self._apply_exporter(broker_key)
        if digest is not None:
            await self._tell_exporter(broker_key, digest)
        return again

    async def _apply_exporter(self, broker_key: str) -> tuple[float | None, str | None]:
        """Seconds after which to try again, and what names the list of queues that was applied."""
        pools = self._registry.of_broker(broker_key)
        if not pools:
            self._registry.exporters_refused.pop(broker_key, None)
            await self._remove_exporter(broker_key)
            return None, None
        namespace, secret, key = broker_key.split("/", 2)
        if self._view.deployment(namespace, names.exporter_name(secret, key)) is None:
            pools = await self._there(pools, namespace)
            if not pools:
                return None, None  # they are gone, and their exporter with them: the watch will tell
        image = self._image
        children = exporter_children(
            pools, image.image, image.image_pull_policy, image.image_pull_secrets, self._monitors.monitoring
        )
        name = names.exporter_name(pools[0].spec.broker.secret_ref.name, pools[0].spec.broker.secret_ref.key)
        refused = self._registry.exporters_refused
        try:
            if (taken := await self._taken(children, lambda found: is_exporters_own(found, name))) is not None:
                refused[broker_key] = taken_from_exporter(*taken, pools[0])
                return _TAKEN_SECONDS, None
            for child in children:
                await self._apply(child)
        except InvalidError as error:
            text = f"the API server refused the queue exporter: {error}: correct the spec"
            refused[broker_key] = Stall("Refused", text)
            return _REFUSED_SECONDS, None
        refused.pop(broker_key, None)
        await self._remove_unwanted(
            pools[0].namespace,
            optional_exporter_children(name),
            children,
            lambda found: is_exporters_own(found, name),
        )
        return None, queues_digest(children)

    async def _there(self, pools: Iterable[GreenWorkerPool], namespace: str) -> list[GreenWorkerPool]:
        """Those pools that the API server has and that do not go: the deletion of what they own may be heard of before their own."""
        path = paths.collection(f"{GROUP}/{VERSION}", KIND, namespace)
        alive = {
            item["metadata"]["uid"]
            async for page in self._client.pages(path, metadata_only=True)
            for item in page.get("items") or ()
            if "deletionTimestamp" not in item["metadata"]
        }
        return [pool for pool in pools if pool.uid in alive]

    async def _tell_exporter(self, broker_key: str, digest: str) -> None:
        """Has kubelet show the exporter's pods the list of queues at once: a ConfigMap alone is shown within a minute or two, the one of a pod that
        changed without delay. Twice, because what kubelet has heard of may be the pod and not yet the ConfigMap.
        """
        namespace, secret, key = broker_key.split("/", 2)
        pods = [
            pod["metadata"]["name"]
            for pod in self._view.exporter_pods(namespace, names.exporter_name(secret, key))
            if (pod["metadata"].get("annotations") or {}).get(names.QUEUES_ANNOTATION) != digest
        ]
        for annotation, value in ((f"{names.QUEUES_ANNOTATION}-touched", digest), (names.QUEUES_ANNOTATION, digest)):
            for pod in pods:
                with contextlib.suppress(NotFoundError):
                    patch = {"metadata": {"annotations": {annotation: value}}}
                    await self._client.merge_patch(f"{paths.pod(namespace, pod)}/status", patch)
            if pods and annotation != names.QUEUES_ANNOTATION:
                await asyncio.sleep(_TOUCH_SECONDS)

    async def _remove_exporter(self, broker_key: str) -> None:
        """For a pool that moved to another broker: it still owns the old exporter, so that nobody collects it."""
        namespace, secret, key = broker_key.split("/", 2)
        name = names.exporter_name(secret, key)
        unreadable = any(record.pool is None and record.key.startswith(f"{namespace}/") for record in self._registry)
        if not unreadable:

            def is_own(found: _Object) -> bool:
                return is_exporters_own(found, name)

            await self._remove_unwanted(namespace, optional_exporter_children(name), (), is_own)
            await self._leave_to_collector(config_of_gone_exporter(namespace, name), name)
            # The last: as long as anything is left, it says so (`FleetView.exporters`), also to an operator that starts now.
            await self._remove_unwanted(namespace, (("apps/v1", "Deployment", name),), (), is_own)

    async def _leave_to_collector(self, config: Child, exporter: str) -> None:
        """Has the garbage collector take the ConfigMap of an exporter that is gone, while pools that owned it stay: the operator may not delete
        ConfigMaps, which would be a right over everybody's.
        """
        found = await self._client.peek(paths.of(config.manifest))
        if found is not None and is_exporters_own(found, exporter):
            config.manifest["metadata"]["uid"] = found["metadata"]["uid"]
            with contextlib.suppress(ConflictError):  # gone meanwhile
                await self._apply(config)

    async def _remove_unwanted(
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

    @staticmethod
    def _hand_over_replicas(pool: GreenWorkerPool, live: dict[str, Any] | None, manifest: dict[str, Any]) -> None:
        """Sends `replicas` until the autoscaler owns it: an apply without it would default it to 1."""
        if live is None:
            manifest["spec"]["replicas"] = pool.spec.replicas.min if _role(manifest) == Role.EVENTLET else 0
        elif not owns_replicas(live, AUTOSCALER):
            manifest["spec"]["replicas"] = live["spec"].get("replicas", 0)


def _role(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["labels"][names.ROLE_LABEL])
