"""The user's own limits, last and in this order: behavior, schedules, pauses, min and max, and the fleet's total."""

from __future__ import annotations

from . import behavior, explain, schedules
from .context import DecisionContext, threads_adjustment, workers_adjustment
from .model import Adjustment, DecisionReason, Pod, Sample, ScalingSpec, WorkerSample


def behaves(context: DecisionContext, wanted: int) -> Adjustment | None:
    """`behavior.scaleUp` and `behavior.scaleDown`."""
    current, spec = context.current, context.spec
    if wanted > current:
        most = behavior.highest_allowed(spec.scale_up, current, context.state.changes, context.now)
        if wanted > most:
            text = f"behavior.scaleUp allows {explain.count(most, 'worker')} now"
            return workers_adjustment(DecisionReason.BEHAVIOR, wanted, int(most), text)
    if wanted < current:
        least = behavior.lowest_allowed(spec.scale_down, current, context.state.changes, context.now)
        if wanted < least:
            text = f"behavior.scaleDown allows no fewer than {explain.count(least, 'worker')} now"
            return workers_adjustment(DecisionReason.BEHAVIOR, wanted, least, text)
    return None


def scheduled_minimum(spec: ScalingSpec, now: float) -> tuple[int, float | None]:
    """The highest minimum of the schedules that are open, never above `replicas.max`, and when its window closes."""
    best, until = 0, None
    for schedule in spec.schedules:
        opened = schedules.opened_at(schedule, now)
        if opened is not None and schedule.min_replicas > best:
            best, until = schedule.min_replicas, opened + schedule.duration_seconds
    return min(best, spec.replicas_max), until


def scheduled(spec: ScalingSpec, now: float, wanted: int) -> Adjustment | None:
    """Schedules raise the minimum; they never lower anything."""
    least, until = scheduled_minimum(spec, now)
    if wanted >= least:
        return None
    text = f"a schedule asks for at least {explain.count(least, 'worker')}"
    return workers_adjustment(DecisionReason.SCHEDULE, wanted, least, text, until)


def paused(spec: ScalingSpec, current: int, wanted: int) -> Adjustment | None:
    """`scaling.pause` holds one direction or both."""
    if wanted > current and spec.pause_out:
        return workers_adjustment(DecisionReason.PAUSED, wanted, current, "scaling out is paused (scaling.pause.out)")
    if wanted < current and spec.pause_in:
        return workers_adjustment(DecisionReason.PAUSED, wanted, current, "scaling in is paused (scaling.pause.in)")
    return None


def minimum(spec: ScalingSpec, wanted: int) -> Adjustment | None:
    """`replicas.min`."""
    if wanted >= spec.replicas_min:
        return None
    return workers_adjustment(DecisionReason.MIN, wanted, spec.replicas_min, f"replicas.min is {spec.replicas_min}")


def maximum(spec: ScalingSpec, wanted: int) -> Adjustment | None:
    """`replicas.max`."""
    if wanted <= spec.replicas_max:
        return None
    return workers_adjustment(DecisionReason.MAX, wanted, spec.replicas_max, f"replicas.max is {spec.replicas_max}")


def total_of_workers(spec: ScalingSpec, sample: Sample, wanted: int) -> Adjustment | None:
    """`greenThreads.total`: never more workers than can each have `greenThreads.min` of it.

    What draining pods still hold counts, but it only stops growth: a drain must not drive out the workers that remain.
    """
    if spec.threads_total is None:
        return None
    most = spec.threads_total // spec.threads_min
    free = max(0, spec.threads_total - held_by_leaving(spec, sample)) // spec.threads_min
    allowed = min(most, max(free, sample.replicas))
    if wanted <= allowed:
        return None
    text = (
        f"greenThreads.total of {spec.threads_total} leaves {spec.threads_min} green threads to "
        f"{explain.count(allowed, 'worker')} at most, draining ones counted"
    )
    return workers_adjustment(DecisionReason.TOTAL, wanted, allowed, text)


def total_of_threads(spec: ScalingSpec, sample: Sample, replicas: int, threads: int) -> Adjustment | None:
    """`greenThreads.total`, hard: shared by the workers wanted or there, whichever are more, and the draining ones."""
    if spec.threads_total is None:
        return None
    alive = sum(1 for pod in sample.pods if not pod.terminating)
    sharing = max(replicas, alive, 1)
    share = max(0, spec.threads_total - held_by_leaving(spec, sample)) // sharing
    allowed = max(1, share)
    if threads <= allowed:
        return None
    text = f"greenThreads.total of {spec.threads_total} is shared by {explain.count(sharing, 'worker')}"
    return threads_adjustment(DecisionReason.TOTAL, threads, allowed, text)


def held_by_leaving(spec: ScalingSpec, sample: Sample) -> int:
    """Green threads that pods on their way out may still use."""
    samples = {worker.pod: worker for worker in sample.workers}
    return sum(_threads_of(spec, pod, samples.get(pod.name)) for pod in sample.pods if pod.terminating)


def _threads_of(spec: ScalingSpec, pod: Pod, worker: WorkerSample | None) -> int:
    annotated = pod.threads if pod.threads is not None else spec.threads_start
    if worker is not None and 0 <= worker.threads_limit < float("inf"):
        return int(worker.threads_limit)
    return annotated
