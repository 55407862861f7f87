"""The user's own limits, last and in this order: behavior, schedules, pauses, min and max, and the fleet's total."""

from __future__ import annotations

from collections.abc import Callable

from greenfleet import cron

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason, Pod, Sample, ScalingSpec, WorkerSample
from . import hpa

UserLimit = Callable[[ScalingSpec, Sample, float, int], Adjustment | None]
"""From (spec, sample, now, workers recommended so far). They hold also while metrics are missing."""


def behavior(context: DecisionContext, recommended: int) -> Adjustment | None:
    """`behavior.scaleUp` and `behavior.scaleDown`."""
    current, spec, changes = context.current, context.spec, context.state.changes
    if recommended > current:
        most = hpa.highest_allowed(spec.scale_up, current, changes, context.now)
        if recommended > most:
            text = f"behavior.scaleUp allows {explain.count(most, 'worker')} now"
            return Adjustment(DecisionReason.BEHAVIOR, "workers", recommended, int(most), text)
    if recommended < current:
        least = hpa.lowest_allowed(spec.scale_down, current, changes, context.now)
        if recommended < least:
            text = f"behavior.scaleDown allows no fewer than {explain.count(least, 'worker')} now"
            return Adjustment(DecisionReason.BEHAVIOR, "workers", recommended, least, text)
    return None


def scheduled(spec: ScalingSpec, _sample: Sample, now: float, recommended: int) -> Adjustment | None:
    """Schedules raise the minimum, never above `replicas.max`; they never lower anything."""
    best, until = 0, None
    for schedule in spec.schedules:
        opened = cron.opened_at(schedule.cron, schedule.timezone, schedule.duration_seconds, now)
        if opened is not None and schedule.min_replicas > best:
            best, until = schedule.min_replicas, opened + schedule.duration_seconds
    least = min(best, spec.replicas_max)
    if recommended >= least:
        return None
    text = f"a schedule asks for at least {explain.count(least, 'worker')}"
    return Adjustment(DecisionReason.SCHEDULE, "workers", recommended, least, text, until)


def paused(spec: ScalingSpec, sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`scaling.pause` holds one direction or both."""
    current = sample.replicas
    if recommended > current and spec.pause_out:
        text = "scaling out is paused (scaling.pause)"
        return Adjustment(DecisionReason.PAUSED, "workers", recommended, current, text)
    if recommended < current and spec.pause_in:
        text = "scaling in is paused (scaling.pause)"
        return Adjustment(DecisionReason.PAUSED, "workers", recommended, current, text)
    return None


def minimum(spec: ScalingSpec, _sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`replicas.min`."""
    least, text = spec.replicas_min, f"replicas.min is {spec.replicas_min}"
    return Adjustment(DecisionReason.MIN, "workers", recommended, least, text) if recommended < least else None


def maximum(spec: ScalingSpec, _sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`replicas.max`."""
    most, text = spec.replicas_max, f"replicas.max is {spec.replicas_max}"
    return Adjustment(DecisionReason.MAX, "workers", recommended, most, text) if recommended > most else None


def total_of_workers(spec: ScalingSpec, sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`greenThreads.total`: never more workers than can each have `greenThreads.min` of it.

    What draining pods still hold counts, but it only stops growth: a drain must not drive out the workers that remain.
    """
    if spec.threads_total is None:
        return None
    most = spec.threads_total // spec.threads_min
    free = max(0, spec.threads_total - held_by_leaving(spec, sample)) // spec.threads_min
    allowed = min(most, max(free, sample.replicas))
    if recommended <= allowed:
        return None
    text = (
        f"greenThreads.total of {spec.threads_total} leaves {spec.threads_min} green threads to "
        f"{explain.count(allowed, 'worker')} at most, draining ones counted"
    )
    return Adjustment(DecisionReason.TOTAL, "workers", recommended, allowed, text)


USER_LIMITS: tuple[UserLimit, ...] = (scheduled, paused, minimum, maximum, total_of_workers)


def total_of_threads(spec: ScalingSpec, sample: Sample, replicas: int, threads: int) -> Adjustment | None:
    """`greenThreads.total`, hard: shared by the workers wanted or there, whichever are more, and the draining ones."""
    if spec.threads_total is None:
        return None
    alive = sum(1 for pod in sample.pods if not pod.terminating)
    sharing = max(replicas, alive, 1)
    allowed = max(1, max(0, spec.threads_total - held_by_leaving(spec, sample)) // sharing)
    if threads <= allowed:
        return None
    text = f"greenThreads.total of {spec.threads_total} is shared by {explain.count(sharing, 'worker')}"
    return Adjustment(DecisionReason.TOTAL, "threads", threads, allowed, text)


def held_by_leaving(spec: ScalingSpec, sample: Sample) -> int:
    """Green threads that pods on their way out may still use."""
    samples = {worker.pod: worker for worker in sample.workers}
    return sum(_threads_of(spec, pod, samples.get(pod.name)) for pod in sample.pods if pod.terminating)


def _threads_of(spec: ScalingSpec, pod: Pod, worker: WorkerSample | None) -> int:
    if worker is not None and 0 <= worker.threads_limit < float("inf"):
        return int(worker.threads_limit)
    return pod.threads if pod.threads is not None else spec.threads_start
