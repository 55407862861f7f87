"""Which pods a scale-in should take first. Pure; the Deployment's controller follows it where it can, and the drain is
the guarantee.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite

from greenfleet.autoscaling.model import Pod, WorkerSample


def deletion_order(pods: Iterable[Pod], workers: Iterable[WorkerSample]) -> tuple[str, ...]:
    """Names of the pods that stay for now: never Ready first, then the least busy, then the youngest. A silent pod
    counts as busy.
    """
    held = {
        worker.pod: worker.threads_busy + worker.reserved
        for worker in workers
        if isfinite(worker.threads_busy) and isfinite(worker.reserved)
    }

    def regret(pod: Pod) -> tuple[bool, float, float, str]:
        ready = pod.ready_since is not None
        return ready, held.get(pod.name, inf if ready else 0.0), -pod.created_at, pod.name

    return tuple(pod.name for pod in sorted((pod for pod in pods if not pod.terminating), key=regret))
