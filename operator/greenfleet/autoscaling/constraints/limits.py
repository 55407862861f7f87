"""The user's own limits, last and in this order: behavior, schedules, pauses, min and max, and the fleet's total."""

from __future__ import annotations

from collections.abc import Callable

from greenfleet import cron

from .. import explain
from ..context import DecisionContext
from ..model import Adjustment, DecisionReason, Sample, ScalingSpec
from . import hpa

UserLimit = Callable[[ScalingSpec, Sample, float, int], Adjustment | None]
"""From (spec, sample, now, workers recommended so far). They hold also while metrics are missing."""


def at_least(
    least: int, recommended: int, reason: DecisionReason, text: str, until: float | None = None
) -> Adjustment | None:
    return Adjustment(reason, "workers", recommended, least, text, until) if recommended < least else None


def at_most(
    most: float, recommended: int, reason: DecisionReason, text: str, until: float | None = None
) -> Adjustment | None:
    return Adjustment(reason, "workers", recommended, int(most), text, until) if recommended > most else None


def behavior(context: DecisionContext, recommended: int) -> Adjustment | None:
    """`behavior.scaleUp` and `behavior.scaleDown`."""
    current, spec, changes, reason = context.current, context.spec, context.state.changes, DecisionReason.BEHAVIOR
    if recommended > current:
        most = min(recommended, hpa.highest_allowed(spec.scale_up, current, changes, context.now))
        return at_most(most, recommended, reason, f"behavior.scaleUp allows {explain.workers(most)} now")
    least = hpa.lowest_allowed(spec.scale_down, current, changes, context.now)
    return at_least(least, recommended, reason, f"behavior.scaleDown allows no fewer than {explain.workers(least)} now")


def scheduled(spec: ScalingSpec, _sample: Sample, now: float, recommended: int) -> Adjustment | None:
    """Schedules raise the minimum, never above `replicas.max`; they never lower anything."""
    best, until = 0, None
    for schedule in spec.schedules:
        opened = cron.opened_at(schedule.cron, schedule.timezone, schedule.duration_seconds, now)
        if opened is not None and schedule.min_replicas > best:
            best, until = schedule.min_replicas, opened + schedule.duration_seconds
    least = min(best, spec.replicas_max)
    text = f"a schedule asks for at least {explain.workers(least)}"
    return at_least(least, recommended, DecisionReason.SCHEDULE, text, until)


def paused(spec: ScalingSpec, sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`scaling.pause` holds one direction or both."""
    current, reason = sample.replicas, DecisionReason.PAUSED
    if spec.pause_out and recommended > current:
        return at_most(current, recommended, reason, "scaling out is paused (scaling.pause)")
    return at_least(current, recommended, reason, "scaling in is paused (scaling.pause)") if spec.pause_in else None


def minimum(spec: ScalingSpec, _sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`replicas.min`."""
    return at_least(spec.replicas_min, recommended, DecisionReason.MIN, f"replicas.min is {spec.replicas_min}")


def maximum(spec: ScalingSpec, _sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`replicas.max`."""
    return at_most(spec.replicas_max, recommended, DecisionReason.MAX, f"replicas.max is {spec.replicas_max}")


def total_of_workers(spec: ScalingSpec, sample: Sample, _now: float, recommended: int) -> Adjustment | None:
    """`greenThreads.total`: never more workers than can each have `greenThreads.min` of it.

    What draining pods still hold counts, but it only stops growth: a drain must not drive out the workers that remain.
    """
    if spec.threads_total is None:
        return None
    free = max(0, spec.threads_total - held_by_leaving(spec, sample)) // spec.threads_min
    most = min(spec.threads_total // spec.threads_min, max(free, sample.replicas))
    text = (
        f"greenThreads.total of {spec.threads_total} leaves {spec.threads_min} green threads to "
        f"{explain.workers(most)} at most, draining ones counted"
    )
    return at_most(most, recommended, DecisionReason.TOTAL, text)


USER_LIMITS: tuple[UserLimit, ...] = (scheduled, paused, minimum, maximum, total_of_workers)


def total_of_threads(spec: ScalingSpec, sample: Sample, replicas: int, threads: int) -> Adjustment | None:
    """`greenThreads.total`, hard: shared by the workers wanted or there, whichever are more, and the draining ones."""
    if spec.threads_total is None:
        return None
    sharing = max(replicas, sum(1 for pod in sample.pods if not pod.terminating), 1)
    allowed = max(1, max(0, spec.threads_total - held_by_leaving(spec, sample)) // sharing)
    text = f"greenThreads.total of {spec.threads_total} is shared by {explain.workers(sharing)}"
    return Adjustment(DecisionReason.TOTAL, "threads", threads, allowed, text) if threads > allowed else None


def held_by_leaving(spec: ScalingSpec, sample: Sample) -> int:
    """Green threads that pods on their way out may still use."""
    seen = {worker.pod: worker.threads_limit for worker in sample.workers if 0 <= worker.threads_limit < float("inf")}
    leaving = {
        pod.name: spec.threads_start if pod.threads is None else pod.threads for pod in sample.pods if pod.terminating
    }
    return sum(int(seen.get(name, threads)) for name, threads in leaving.items())
