"""Carries a decision out: green threads by an annotation of each running pod, what a new pod starts with by the pool's
ConfigMap, workers by the Deployment's replicas.

Threads go through `pods/status`, so that the operator's role cannot change an image. Nothing is written that is already
so, small changes are not worth a write, and what a pod does not report back is written again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import Decision, Pod, WorkerSample
from greenfleet.controller.cluster_cache import ClusterCache, owns_replicas
from greenfleet.controller.field_managers import AUTOSCALER
from greenfleet.controller.registry import Fleet, LastThreadWrite, Record
from greenfleet.deletion_order import deletion_order
from greenfleet.k8s import paths
from greenfleet.k8s.client import (
    ApiError,
    Client,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotLeaderError,
)
from greenfleet.k8s.events import EventRecorder
from greenfleet.manifests import names
from greenfleet.manifests.config import start_threads
from greenfleet.manifests.names import Role
from greenfleet.own_metrics import OperatorMetrics

_log = logging.getLogger(__name__)

WRITE_INTERVAL_SECONDS = 5.0
"""At most one write of green threads per pod in so long. More of them do not wait for the time after fewer: the load
that was just gone is back.
"""
START_INTERVAL_SECONDS = 60.0
"""A changed start value is written before a worker is added, and else so often: a new pod gets its own within a tick
anyway.
"""
WORTH_WRITING = 0.1
"""Relative change of green threads that is worth a write."""
TOUCH_SECONDS = 0.5
"""When a pod that was written to is touched again: of 1,000 patches some 25 did not reach the pod's file until the
pod's next change (`tests/e2e/test_resize.py`; why kubelet passes over them was not found).
"""
_LEAVING_COST = -100
_WRITTEN_ANNOTATION = f"{names.PREFIX}/threads-written-at"


def worth_writing(current: int | None, wanted: int) -> bool:
    """Whether a pod that has `current` green threads should get `wanted`."""
    if current is None:
        return True
    return abs(wanted - current) >= max(1.0, WORTH_WRITING * current)


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """A decision with everything that is needed to carry it out."""

    record: Record
    pool: GreenWorkerPool
    fleet: Fleet
    decision: Decision
    pods: tuple[Pod, ...]
    workers: Mapping[str, WorkerSample]
    """By pod: what each worker says of itself."""


class Configs(Protocol):
    """Who knows the pools' ConfigMaps."""

    async def config_uid(self, record: Record, pool: GreenWorkerPool) -> str | None:
        """Of the pool's own ConfigMap, None where it has none."""

    def config_is_gone(self, record: Record) -> None:
        """A write has found another one, or none."""


class Actuator:
    """Writes decisions under the field manager `greenfleet-autoscaler`."""

    def __init__(
        self, client: Client, view: ClusterCache, events: EventRecorder, metrics: OperatorMetrics, configs: Configs
    ) -> None:
        self._client = client
        self._view = view
        self._events = events
        self._metrics = metrics
        self._configs = configs

    async def apply(self, plan: ScalePlan) -> bool:
        """Makes the cluster look like the decision. False where the API server refused something: the next tick decides
        and writes anew.
        """
        state = plan.fleet.actuation
        state.busy = True
        refused: list[ApiError] = []
        try:
            written = await self._write_threads(plan, refused) if plan.fleet.role is Role.EVENTLET else []
            await self._write_replicas(plan)
            if written:
                await asyncio.sleep(TOUCH_SECONDS)
                await asyncio.gather(*(self._touch(plan.pool, pod) for pod in written))
        except NotLeaderError:
            return False
        except ApiError as error:
            refused.append(error)
        finally:
            state.busy = False
        if refused:
            _log.warning("%s %s: not carried out, the next tick will: %s", plan.record.key, plan.fleet.role, refused[0])
        return not refused

    async def _write_threads(self, plan: ScalePlan, refused: list[ApiError]) -> list[Pod]:
        """Writes to the pods that need it, and to the ConfigMap; returns those pods. What is refused of that (one pod
        by a webhook, a ConfigMap that somebody made immutable) is added to *refused*: it must keep neither the other
        pods from hearing nor new workers from coming.
        """
        state, threads, now = plan.fleet.actuation, plan.decision.threads, time.monotonic()
        needy = [pod for pod in plan.pods if _needs_threads(plan, pod, now)]
        answers = await asyncio.gather(*(self._patch_threads(plan, pod, now) for pod in needy), return_exceptions=True)
        written = [pod for pod, answer in zip(needy, answers, strict=True) if answer is None]
        _sort_out(answers, refused)
        before = next((pod.threads for pod in written if pod.threads not in (None, threads)), None)
        if before is not None:
            await self._record_change(plan, "threads", before, threads)
        for name in state.last_thread_writes.keys() - {pod.name for pod in plan.pods}:
            del state.last_thread_writes[name]
        if not plan.pods and plan.decision.replicas == 0:
            state.start_threads = None  # nobody reads it; it is written anew before the first worker is
            return written
        if self._needs_start(plan, now):
            try:
                await self._write_start(plan, threads, now)
            except NotLeaderError:
                raise
            except ApiError as error:
                refused.append(error)
        return written

    async def _write_start(self, plan: ScalePlan, threads: int, now: float) -> None:
        """Writes into the ConfigMap that the reconciler made, and into no other: one that came to be here would have no
        owner.
        """
        uid = await self._configs.config_uid(plan.record, plan.pool)
        if uid is None:
            return  # the reconciler makes it first
        manifest = start_threads(plan.pool, threads)
        manifest["metadata"]["uid"] = uid
        try:
            await self._client.apply(paths.of(manifest), manifest, AUTOSCALER)
        except ConflictError:
            self._configs.config_is_gone(plan.record)  # and with it perhaps the pool
            return
        plan.fleet.actuation.start_threads, plan.fleet.actuation.start_threads_written_at = threads, now

    def _needs_start(self, plan: ScalePlan, now: float) -> bool:
        """Whether the ConfigMap has to say anew what a new pod starts with."""
        state = plan.fleet.actuation
        if state.start_threads is None:
            return True
        applied_at, said = plan.record.reconciliation.config_threads or (0.0, None)
        if applied_at > state.start_threads_written_at and said != str(state.start_threads):
            return True  # another hand has changed it, or made it anew
        if not worth_writing(state.start_threads, plan.decision.threads):
            return False
        live = self._view.deployment(plan.pool.namespace, names.fleet_name(plan.pool.name, plan.fleet.role))
        grows = live is not None and plan.decision.replicas > live["spec"].get("replicas", 0)
        return grows or now - state.start_threads_written_at >= START_INTERVAL_SECONDS

    async def _patch_threads(self, plan: ScalePlan, pod: Pod, now: float) -> None:
        annotations = {names.THREADS_ANNOTATION: str(plan.decision.threads), **_written_now()}
        await self._patch_pod(plan.pool, pod.name, annotations)
        fewer = pod.threads is not None and plan.decision.threads < pod.threads
        plan.fleet.actuation.last_thread_writes[pod.name] = LastThreadWrite(now, fewer)

    async def _touch(self, pool: GreenWorkerPool, pod: Pod) -> None:
        """Has kubelet look at the pod once more: see `TOUCH_SECONDS`."""
        await self._patch_pod(pool, pod.name, _written_now())

    async def _patch_pod(self, pool: GreenWorkerPool, name: str, annotations: dict[str, str]) -> None:
        patch = {"metadata": {"annotations": annotations}}
        try:
            await self._client.merge_patch(f"{paths.pod(pool.namespace, name)}/status", patch)
        except NotFoundError:
            return

    async def _write_replicas(self, plan: ScalePlan) -> None:
        pool, wanted = plan.pool, plan.decision.replicas
        name = names.fleet_name(pool.name, plan.fleet.role)
        deployment = self._view.deployment(pool.namespace, name)
        if deployment is None:
            return  # the reconciler makes it first
        current = deployment["spec"].get("replicas", 1)
        if current == wanted and owns_replicas(deployment, AUTOSCALER):
            return
        if wanted < current:
            leaving = deletion_order(plan.pods, plan.workers.values())
            await self._mark_leaving(pool, leaving[: current - wanted])
        metadata = {"name": name, "namespace": pool.namespace, "uid": deployment["metadata"]["uid"]}
        if current == wanted:  # only to own the field: never over what somebody has scaled since it was looked at
            metadata["resourceVersion"] = deployment["metadata"]["resourceVersion"]
        manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": wanted}}
        await self._client.apply(paths.of(manifest), manifest, AUTOSCALER)
        if current != wanted:
            await self._record_change(plan, "workers", current, wanted)

    async def _mark_leaving(self, pool: GreenWorkerPool, leaving: tuple[str, ...]) -> None:
        """The most idle pods first: best effort, the drain is the guarantee. A pod that may not be written to stops no
        scale-in.
        """
        cost = {names.DELETION_COST_ANNOTATION: str(_LEAVING_COST)}
        answers = await asyncio.gather(*(self._patch_pod(pool, name, cost) for name in leaving), return_exceptions=True)
        _sort_out([one for one in answers if not isinstance(one, InvalidError | ForbiddenError)])

    async def _record_change(self, plan: ScalePlan, dimension: str, before: int, after: int) -> None:
        record, fleet, why = plan.record, plan.fleet, plan.decision.why
        up = after > before
        what = "green threads per worker" if dimension == "threads" else f"{fleet.role} workers"
        note = f"{what} {before} → {after}: {why.summary}"
        reasons = [each.reason for each in why.adjustments if each.dimension == dimension]
        fleet.actuation.last_scale = (time.time(), str(reasons[-1] if reasons else why.binding), note[:1000])
        self._metrics.decisions.labels(record.key, fleet.role, dimension, "out" if up else "in", why.binding).inc()
        _log.info("%s: %s", record.key, note)
        await self._events.normal(plan.pool, _EVENT_REASONS[dimension, up], note)


def _sort_out(answers: Iterable[BaseException | None], refused: list[ApiError] | None = None) -> None:
    """Adds to *refused* what the API server said no to; raises what is worse than that, or everything without such a
    list.
    """
    for answer in answers:
        if refused is not None and isinstance(answer, ApiError) and not isinstance(answer, NotLeaderError):
            refused.append(answer)
        elif answer is not None:
            raise answer


def _written_now() -> dict[str, str]:
    """Makes every write a change: kubelet refreshes the file on changes only."""
    return {_WRITTEN_ANNOTATION: f"{time.time():.3f}"}


_EVENT_REASONS = {
    ("workers", True): "ScaledOut",
    ("workers", False): "ScaledIn",
    ("threads", True): "ThreadsRaised",
    ("threads", False): "ThreadsLowered",
}


def _needs_threads(plan: ScalePlan, pod: Pod, now: float) -> bool:
    """Whether a pod has to be written to: something else is wanted, or it does not do what was written."""
    last_write = plan.fleet.actuation.last_thread_writes.get(pod.name)
    more = pod.threads is not None and plan.decision.threads > pod.threads
    if pod.terminating:
        return False
    if last_write is not None and now - last_write.at < WRITE_INTERVAL_SECONDS and not (last_write.fewer and more):
        return False
    if plan.decision.metrics_issues and pod.threads is not None:
        return False  # what is not known changes nothing, in neither dimension
    if worth_writing(pod.threads, plan.decision.threads):
        return True
    worker = plan.workers.get(pod.name)
    settled = (
        worker is not None and pod.ready_since is not None and worker.at > pod.ready_since + WRITE_INTERVAL_SECONDS
    )
    return settled and worker is not None and round(worker.threads_limit) != pod.threads
