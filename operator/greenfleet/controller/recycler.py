"""Evicts workers that ask to be recycled: one at a time per fleet, and only while all others are well.

An eviction and not an exit of the container: that would restart in place, into CrashLoopBackOff. The eviction also
respects the PodDisruptionBudget, and the pod drains as on every other way out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import Pod, Sample
from greenfleet.controller.registry import Fleet
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client, NotLeaderError, TransientError
from greenfleet.k8s.events import EventRecorder
from greenfleet.prometheus.collect import Worker

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 20.0
"""Between two evictions in a fleet: the cluster has to show that the replacement is on its way."""


def next_to_recycle(workers: Sequence[Worker], pods: Sequence[Pod], replicas: int) -> Worker | None:
    """The worker to evict now: the longest running of those that ask, if every wanted pod is there and ready."""
    ready = {pod.name for pod in pods if pod.ready_since is not None and not pod.terminating}
    if len(ready) < replicas or len(ready) < len(pods):
        return None
    asking = [worker for worker in workers if worker.recycle_reasons and worker.sample.pod in ready]
    return max(asking, key=lambda worker: (worker.sample.finished, worker.sample.pod), default=None)


class Recycler:
    """Carries the evictions out."""

    def __init__(self, client: Client, events: EventRecorder) -> None:
        self._client = client
        self._events = events

    def choose(self, fleet: Fleet, workers: Sequence[Worker], sample: Sample, now: float) -> Worker | None:
        """The worker to evict now, if there is one; it is not chosen again soon. *now* is Unix time."""
        if now - fleet.recycling.evicted_at < PAUSE_SECONDS:
            return None
        worker = next_to_recycle(workers, sample.pods, sample.replicas)
        if worker is not None:
            fleet.recycling.evicted_at = now
        return worker

    async def evict(self, pool: GreenWorkerPool, worker: Worker) -> None:
        """Evicts the pod of one worker. A refusal by a disruption budget is tried again later."""
        name = worker.sample.pod
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": pool.namespace},
        }
        try:
            await self._client.create(f"{paths.pod(pool.namespace, name)}/eviction", eviction)
        except NotLeaderError:
            return
        except TransientError as error:  # 429: the disruption budget says "not now"
            _log.info("%s: %s is recycled later: %s", pool.key, name, error)
            return
        except ApiError as error:
            _log.warning("%s: %s could not be recycled: %s", pool.key, name, error)
            return
        reasons = ", ".join(worker.recycle_reasons)
        await self._events.normal(
            pool, "Recycled", f"worker {name} drains and is replaced: it reached its limit of {reasons}"
        )
