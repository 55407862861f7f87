"""Green threads in each worker: the first dimension to move, because it moves in a second and costs no pod.

Straight to what the core bears while anything waits, else for the rate; up at once, down slowly.
"""

from __future__ import annotations

from math import ceil, sqrt

from .. import explain
from ..constraints import limits, stabilization
from ..context import DecisionContext, Tick
from ..model import Adjustment, DecisionReason
from ..state import State


def threads_for(context: DecisionContext, replicas: int) -> tuple[Adjustment, ...]:
    """The recommendation, then what holds it, and the user's total last."""
    spec, safe, seen = context.spec, context.worker.safe_threads, context.observation
    before = threads_now(context, context.state)
    if replicas == 0 and not context.sample.pods:
        reason, wanted = DecisionReason.IDLE, max(spec.threads_min, min(safe, spec.threads_start))
        text = "no worker runs; a new one starts with this many"
    elif _anything_waits(context) or (context.sample.replicas == 0 and replicas > 0):
        limited = safe >= context.state.estimates.limit.ceiling - 1
        because = " (memory was nearly full, or it bore so many before a restart)" if limited else ""
        reason, wanted = DecisionReason.SAFE_THREADS, safe
        text = (
            f"{explain.waits(seen.unstarted)} and {explain.count(seen.busy, 'task')} run; "
            f"a worker bears {explain.count(safe, 'green thread')}{because}"
        )
    else:
        reason = DecisionReason.RATE
        wanted, text = _steady(context, max(1, min(replicas, len(seen.serving) or replicas)))
    steps = [Adjustment(reason, "threads", before, wanted, text)]
    if (held := _full_downstream(context, wanted) or _lowered_slowly(context, before, wanted)) is not None:
        steps.append(held)
    if (total := limits.total_of_threads(context, replicas, steps[-1].after)) is not None:
        steps.append(total)
    return tuple(steps)


def _anything_waits(context: DecisionContext) -> bool:
    """More than half a second of arrivals waits, or nearly every green thread is taken."""
    seen = context.observation
    taken = 0 < seen.threads_limit * context.tuning.saturated <= seen.threads_busy
    return taken or seen.unstarted > 1 + context.rate / 2


def _steady(context: DecisionContext, workers: int) -> tuple[int, str]:
    """For the rate, by Little's law and square-root staffing; never fewer than tasks run, for then none starts until
    some have ended.
    """
    worker, busy, tuning = context.worker, context.observation.busy, context.tuning
    concurrency = context.rate * worker.runtime_seconds
    for_rate = ceil((concurrency / tuning.utilisation + tuning.deviations * sqrt(concurrency)) / workers)
    running = ceil(busy / workers)
    text = f"{explain.count(busy, 'task')} run"
    if for_rate >= running:
        each = f"{explain.rate(context.rate)} of {explain.seconds(worker.runtime_seconds)} each"
        text = f"{each} need so many green threads per worker, with room for chance"
    return max(context.spec.threads_min, min(worker.safe_threads, max(for_rate, running))), text


def _lowered_slowly(context: DecisionContext, before: int, wanted: int) -> Adjustment | None:
    """An idle green thread costs little; one that is missed costs a second."""
    window = context.tuning.long_seconds
    most = stabilization.first_within(context.state.high_threads, context.now, window)
    if most is None or not context.tuning.uses("thread-stabilization"):
        return None
    held = min(before, most.value, context.worker.safe_threads)
    text = f"{explain.count(held, 'green thread')} were needed within the last {explain.seconds(window)}"
    return limits.at_least(held, wanted, DecisionReason.STABILIZATION, text, most.at + window, of="threads")


def _full_downstream(context: DecisionContext, wanted: int) -> Adjustment | None:
    """The most green threads that the comparison of throughput allows."""
    test, seen = context.state.estimates.downstream, context.observation
    if test.ceiling is None or not seen.workers:
        return None
    most, reason = max(context.spec.threads_min, test.threads(len(seen.serving))), DecisionReason.SATURATED_DOWNSTREAM
    return limits.at_most(most, wanted, reason, explain.downstream(test), test.held_until, of="threads")


def threads_now(tick: Tick, state: State) -> int:
    """What was decided last, else what the pods have; the start value where nothing was written yet."""
    if state.threads is not None:
        return state.threads
    annotated = [pod.threads for pod in tick.sample.pods if pod.threads is not None and not pod.terminating]
    spec = tick.spec
    return max(spec.threads_min, min(spec.threads_max, max(annotated, default=spec.threads_start)))
