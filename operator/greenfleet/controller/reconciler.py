"""Brings the children of a pool to what its spec says. Idempotent, level-triggered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from greenfleet.api import GreenWorkerPool, PoolSpec
from greenfleet.controller.applier import REFUSED_SECONDS, Applier, taken_seconds
from greenfleet.controller.cluster_cache import ClusterCache, is_rolled_out, owns_replicas
from greenfleet.controller.field_managers import AUTOSCALER, RECONCILER
from greenfleet.controller.monitors import PodMonitors
from greenfleet.controller.ownership import is_owned_by, is_pools_own, taken_from_pool
from greenfleet.controller.registry import Reconciliation, Record, Registry
from greenfleet.k8s import paths
from greenfleet.k8s.client import Client, ConflictError, InvalidError
from greenfleet.k8s.events import EventRecorder
from greenfleet.manifests import Child, children_of_pool, names
from greenfleet.manifests.children import optional_children, pool_config_child
from greenfleet.manifests.names import Role
from greenfleet.manifests.pods import USUAL, PodDefaults
from greenfleet.settings import WorkerImage
from greenfleet.status.pinning import GENERATION_ANNOTATION, choose, template_digest
from greenfleet.status.stalled import StalledReason

_log = logging.getLogger(__name__)

_TURN_SECONDS = 5.0
"""How often a fleet that waits for its turn asks again."""
_ATTEMPTS = 5
"""How often a Deployment that changed under our hands is looked at again, before the work queue backs off."""
_SEEN_LOOKS = 50
"""Times 20 ms: how long the watch may take to tell of a change, when the API server has refused an older version."""
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
        view: ClusterCache,
        events: EventRecorder,
        applier: Applier,
        *,
        image: WorkerImage,
        monitors: PodMonitors,
        pod_defaults: PodDefaults = USUAL,
    ) -> None:
        self._client = client
        self._events = events
        self._registry = registry
        self._view = view
        self._applier = applier
        self._image = image
        self._monitors = monitors
        self._pod_defaults = pod_defaults
        self._upgrading: _Upgrade | None = None

    async def reconcile_pool(self, record: Record) -> float | None:
        """Applies what belongs to one pool. A refusal by the API server is kept in the record; other errors are raised.

        Returns the seconds after which to look again, if something has to wait for its turn.
        """
        pool = record.pool
        if pool is None:
            return None
        state = record.reconciliation
        state.conflict = self._registry.conflict(pool)
        if state.conflict is not None or await self._is_deleting(record, pool):
            return None
        self.adopt_generation(record, pool)
        state.begun = True
        image = self._image
        children = children_of_pool(
            pool,
            image.image,
            image.image_pull_policy,
            record.routes(time.time()),
            self._monitors.monitoring,
            defaults=self._pod_defaults,
            agent_pull_secrets=image.image_pull_secrets,
        )
        try:
            if (
                taken := await self._applier.taken(
                    children, lambda found: is_pools_own(found, pool.name), state.config_uid
                )
            ) is not None:
                state.refused, state.refusals = taken_from_pool(*taken, pool), state.refusals + 1
                return taken_seconds(state.refusals)
            waits = await self._apply_all(record, pool, children)
            if waits is None:
                return None
        except InvalidError as error:
            text = f"the API server refused an object of this pool: {error}: correct the spec"
            state.refused, state.refusals = StalledReason("Refused", text), state.refusals + 1
            return REFUSED_SECONDS
        state.refused, state.refusals = None, 0
        await self._applier.remove_unwanted(
            pool.namespace, optional_children(pool), children, lambda found: is_pools_own(found, pool.name)
        )
        if state.generation != pool.generation:
            await self._warn(pool)
        state.generation = pool.generation
        return _TURN_SECONDS if waits else None

    async def _apply_all(self, record: Record, pool: GreenWorkerPool, children: Iterable[Child]) -> bool | None:
        """Whether a fleet has to wait for another one; None if the pool goes. That is asked before each child that is
        written after one has changed: an owner that is put back takes the child along.
        """
        if self._lacks_any(pool, children):
            # It is new, or on its way out and told of late: an operator that has just started may know less than it
            # sees.
            record.reconciliation.drifted = True
        waits = False
        for child in children:
            if await self._is_deleting(record, pool):
                return None
            if child.is_deployment:
                applied = await self._apply_fleet(record, pool, child)
                if applied is None:
                    return None
                waits |= not applied
            elif child.kind == "ConfigMap":
                if not await self._apply_config(record, pool, child):
                    return None
            else:
                await self._applier.apply(child)
        return waits

    def adopt_generation(self, record: Record, pool: GreenWorkerPool) -> None:
        """After a restart: a pool is as good as applied whose status says so of this very spec, and whose Deployment
        is made from it.
        """
        state = record.reconciliation
        if state.begun or state.generation is not None or state.stalled is not None:
            return
        if self._registry.is_in_conflict(pool) or not _was_applied(record, pool):
            return
        live = self._view.deployment(pool.namespace, names.fleet_name(pool.name, Role.EVENTLET))
        if live is None or not is_owned_by(live, pool):
            return  # perhaps a predecessor's of the same name
        if (live["metadata"].get("annotations") or {}).get(GENERATION_ANNOTATION) == str(pool.generation):
            state.generation = pool.generation

    async def _is_deleting(self, record: Record, pool: GreenWorkerPool) -> bool:
        """Whether the pool is gone or going. Asked of the API server itself, if a child changed since it was asked
        last.

        What the collector does to the children of a pool that goes looks like drift, and the operator may be told of it
        before the deletion arrives: with `--cascade=orphan` the owner is taken off them, and putting it back
        would end the workers.
        """
        if self._registry.get(record.key) is not record:
            return True  # told meanwhile; of such a record no drift is noted any more
        if not record.reconciliation.drifted:
            return False
        record.reconciliation.drifted = False
        path = paths.pools(pool.namespace)
        found = await self._client.get(path, {"fieldSelector": f"metadata.name={pool.name}"})
        return not any(
            one["metadata"]["uid"] == pool.uid and "deletionTimestamp" not in one["metadata"]
            for one in found.get("items") or ()
        )

    def _lacks_any(self, pool: GreenWorkerPool, children: Iterable[Child]) -> bool:
        """Whether one of its children, all asked for by now, is absent or has lost its owner."""
        for child in children:
            seen = self._view.child(child.kind, pool.namespace, child.name)
            if seen is not None and not is_owned_by(seen, pool):
                return True
            if "uid" not in child.manifest["metadata"] and child.kind != "PodMonitor":
                return True
        return False

    async def repair_config(self, record: Record) -> None:
        """Applies the ConfigMap of a settled pool again. It costs one request, which changes nothing unless somebody
        else did.

        Raises ConflictError where the ConfigMap is not the one that was applied last: the pool has to be reconciled.
        """
        pool, state = record.pool, record.reconciliation
        if pool is None or state.stalled is not None or state.generation != pool.generation:
            return
        if self._registry.get(record.key) is not record:
            return  # deleted meanwhile: nothing may come back
        if state.config_uid is None:
            raise ConflictError("its ConfigMap is not known")
        child = pool_config_child(pool, record.routes(time.time()))
        child.manifest["metadata"]["uid"] = state.config_uid
        await self._apply_config(record, pool, child)

    async def _apply_config(self, record: Record, pool: GreenWorkerPool, child: Child) -> bool:
        """Applies the reconciler's part of the ConfigMap; the answer shows whether the autoscaler's part is still
        there. False if the pool goes.

        Applied to one version only: that of the last apply, or one that was there before the API server said that the
        pool stays. A younger one may lack its owner because the collector has taken it off (`--cascade=orphan`).
        """
        state, metadata = record.reconciliation, child.manifest["metadata"]
        for _ in range(_ATTEMPTS):
            if "uid" in metadata:
                metadata["resourceVersion"] = state.config_version or await self._config_version(state, child)
                if state.config_version is None:
                    state.drifted = True
                    if await self._is_deleting(record, pool):
                        return False
            try:
                found = await self._applier.apply(child)
            except ConflictError:
                self._forget_config(state, uid="uid" not in metadata)
                if "uid" not in metadata:
                    raise
                continue
            state.config_applied_at = time.monotonic()
            state.config_uid, state.config_version = found["metadata"]["uid"], found["metadata"]["resourceVersion"]
            state.config_threads = (state.config_applied_at, (found.get("data") or {}).get("threads"))
            return True
        raise ConflictError(f"the ConfigMap {child.name} changes faster than it can be read")

    async def _config_version(self, state: Reconciliation, child: Child) -> str:
        found = await self._client.peek(paths.of(child.manifest))
        if found is None or found["metadata"]["uid"] != child.manifest["metadata"]["uid"]:
            self._forget_config(state, uid=True)  # the next reconciliation looks whose the one is that is there now
            raise ConflictError(f"the ConfigMap {child.name} was deleted")
        return str(found["metadata"]["resourceVersion"])

    @staticmethod
    def _forget_config(state: Reconciliation, *, uid: bool) -> None:
        state.config_version = None
        if uid:
            state.config_uid = None

    async def config_uid(self, record: Record, pool: GreenWorkerPool) -> str | None:
        """Of the pool's own ConfigMap, None where it has none. After a restart it is asked for: it may be long until
        the pool's turn comes.
        """
        state = record.reconciliation
        if state.config_uid is None:
            found = await self._client.peek(paths.of(pool_config_child(pool, ()).manifest))
            if found is not None and is_owned_by(found, pool) and self._registry.get(record.key) is record:
                state.config_uid = found["metadata"]["uid"]
        return state.config_uid

    def config_is_gone(self, record: Record) -> None:
        """A write has found another ConfigMap than the pool's, or none."""
        self._forget_config(record.reconciliation, uid=True)

    async def _apply_fleet(self, record: Record, pool: GreenWorkerPool, child: Child) -> bool | None:
        """Applies a fleet's Deployment. False if it has to wait until another fleet has taken an upgraded operator's
        template, None if the pool goes.
        """
        for _ in range(_ATTEMPTS):
            if await self._is_deleting(record, pool):
                return None
            live = await self._applier.find(child)
            if record.reconciliation.drifted:
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
        """Applies a fleet's Deployment to the version that was looked at, and to no other: replicas are handed over by
        what it says, and a version without its owner belongs to a pool that goes.
        """
        # Not the uid that was found with it: another one may have taken its place since.
        metadata = {name: value for name, value in child.manifest["metadata"].items() if name != "uid"}
        spec = dict(child.manifest["spec"])  # it gets replicas below
        choice = choose(live, {**child.manifest, "metadata": metadata, "spec": spec}, pool.generation)
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
            and pool.spec.scaling.mode != "Manual"
        ):
            note = (
                f"spec.manualReplicas is {pool.spec.manual_replicas}, and scaling.mode is "
                f"{pool.spec.scaling.mode}, in which it "
                "counts for nothing: set scaling.mode to Manual, or leave the number of workers to the operator"
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
                    f"{field}.insecureSkipVerify is true, so that its certificate is not checked, and whoever "
                    "answers in its place gets "
                    f"the password: name the CA in {field}.caSecretRef, and remove insecureSkipVerify"
                )
                await self._events.warning(pool, "TlsNotVerified", note)

    @staticmethod
    def _hand_over_replicas(pool: GreenWorkerPool, live: dict[str, Any] | None, manifest: dict[str, Any]) -> None:
        """Sends `replicas` until the autoscaler owns it: an apply without it would default it to 1."""
        if live is None:
            manifest["spec"]["replicas"] = pool.spec.replicas.min if _role(manifest) == Role.EVENTLET else 0
        elif not owns_replicas(live, AUTOSCALER):
            manifest["spec"]["replicas"] = live["spec"].get("replicas", 0)


def note_drift(record: Record) -> None:
    """A child of the pool changed, or disappeared."""
    record.reconciliation.drifted = True


def _was_applied(record: Record, pool: GreenWorkerPool) -> bool:
    """Whether the status says that all objects of this spec were applied. The Deployment alone does not show it: an
    operator may have ended after it, and before the others.
    """
    said = {one["type"]: one for one in record.status.get("conditions") or ()}
    condition = said.get("Reconciling", {})
    return condition.get("observedGeneration") == pool.generation and condition["reason"] not in ("Applying", "Stalled")


def _role(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["labels"][names.ROLE_LABEL])
