"""The user's own limits (but for scale-up's window), last, in this order: behavior, schedules, pause, bounds, total."""

from __future__ import annotations

from greenfleet import cron

from .. import explain
from ..context import DecisionContext, Tick
from ..model import Adjustment, DecisionReason, Sample, ScalingSpec
from . import hpa


def at_least(
    least: int, wanted: int, reason: DecisionReason, text: str, until: float | None = None, *, of: str = "workers"
) -> Adjustment | None:
    return Adjustment(reason, of, wanted, least, text, until) if wanted < least else None


def at_most(
    most: float, wanted: int, reason: DecisionReason, text: str, until: float | None = None, *, of: str = "workers"
) -> Adjustment | None:
    return Adjustment(reason, of, wanted, int(most), text, until) if wanted > most else None


def behavior(context: DecisionContext, recommended: int) -> Adjustment | None:
    """`behavior.scaleUp` and `behavior.scaleDown`."""
    current, spec, changes, reason = context.current, context.spec, context.state.changes, DecisionReason.BEHAVIOR
    if recommended > current:
        most = min(recommended, hpa.highest_allowed(spec.scale_up, current, changes, context.now))
        return at_most(most, recommended, reason, f"behavior.scaleUp allows {explain.workers(most)} now")
    least = hpa.lowest_allowed(spec.scale_down, current, changes, context.now)
    return at_least(least, recommended, reason, f"behavior.scaleDown allows no fewer than {explain.workers(least)} now")


def scheduled(tick: Tick, recommended: int) -> Adjustment | None:
    """Schedules raise the minimum, never above `replicas.max`; they never lower anything."""
    best, until = 0, None
    for schedule in tick.spec.schedules:
        opened = cron.opened_at(schedule.cron, schedule.timezone, schedule.duration_seconds, tick.now)
        if opened is not None and schedule.min_replicas > best:
            best, until = schedule.min_replicas, opened + schedule.duration_seconds
    least = min(best, tick.spec.replicas_max)
    text = f"a schedule asks for at least {explain.workers(least)}"
    return at_least(least, recommended, DecisionReason.SCHEDULE, text, until)


def paused(tick: Tick, recommended: int) -> Adjustment | None:
    """`scaling.pause` holds one direction or both."""
    spec, current, reason = tick.spec, tick.current, DecisionReason.PAUSED
    if spec.pause_out and recommended > current:
        return at_most(current, recommended, reason, "scaling out is paused (scaling.pause)")
    return at_least(current, recommended, reason, "scaling in is paused (scaling.pause)") if spec.pause_in else None


def minimum(tick: Tick, recommended: int) -> Adjustment | None:
    """`replicas.min`."""
    least = tick.spec.replicas_min
    return at_least(least, recommended, DecisionReason.MIN, f"replicas.min is {least}")


def maximum(tick: Tick, recommended: int) -> Adjustment | None:
    """`replicas.max`."""
    most = tick.spec.replicas_max
    return at_most(most, recommended, DecisionReason.MAX, f"replicas.max is {most}")


def total_of_workers(tick: Tick, recommended: int) -> Adjustment | None:
    """`greenThreads.total`: never more workers than can each have `greenThreads.min` of it.

    What draining pods still hold counts, but it only stops growth: a drain must not drive out the workers that remain.
    """
    spec, sample = tick.spec, tick.sample
    if spec.threads_total is None:
        return None
    free = max(0, spec.threads_total - held_by_leaving(spec, sample)) // spec.threads_min
    most = min(spec.threads_total // spec.threads_min, max(free, sample.replicas))
    text = (
        f"greenThreads.total of {spec.threads_total} leaves {spec.threads_min} green threads to "
        f"{explain.workers(most)} at most, draining ones counted"
    )
    return at_most(most, recommended, DecisionReason.TOTAL, text)


USER_LIMITS = (scheduled, paused, minimum, maximum, total_of_workers)
"""While metrics are missing they stop growth and take no worker away, so they see no more than a `Tick`."""


def total_of_threads(tick: Tick, replicas: int, threads: int) -> Adjustment | None:
    """`greenThreads.total`, hard: shared by the workers wanted or there, whichever are more, and the draining ones."""
    spec, sample = tick.spec, tick.sample
    if spec.threads_total is None:
        return None
    sharing = max(replicas, sum(1 for pod in sample.pods if not pod.terminating), 1)
    allowed = max(1, max(0, spec.threads_total - held_by_leaving(spec, sample)) // sharing)
    text = f"greenThreads.total of {spec.threads_total} is shared by {explain.workers(sharing)}"
    return at_most(allowed, threads, DecisionReason.TOTAL, text, of="threads")


def held_by_leaving(spec: ScalingSpec, sample: Sample) -> int:
    """Green threads that pods on their way out may still use."""
    seen = {worker.pod: worker.threads_limit for worker in sample.workers if 0 <= worker.threads_limit < float("inf")}
    leaving = [pod for pod in sample.pods if pod.terminating]
    return sum(int(seen.get(pod.name, spec.threads_start if pod.threads is None else pod.threads)) for pod in leaving)
