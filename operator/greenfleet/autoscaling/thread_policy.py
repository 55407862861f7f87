"""Green threads for every worker: straight to c_safe while anything waits, else for the rate; up at once, down slowly."""

from __future__ import annotations

from math import ceil

from . import explain, limits, scalability, stabilization, threads
from .context import DecisionContext, threads_adjustment
from .model import Adjustment, DecisionReason, Sample, ScalingSpec


def threads_for(context: DecisionContext, replicas: int) -> tuple[Adjustment, ...]:
    """Straight to c_safe while anything waits, else for the rate; up at once, down slowly; the total last."""
    spec, worker, view = context.spec, context.worker, context.view
    before = context.state.threads if context.state.threads is not None else threads_now(spec, context.sample)
    safe = worker.safe_threads
    if replicas == 0 and not context.sample.pods:
        start = max(spec.threads_min, min(safe, spec.threads_start))
        steps = [
            threads_adjustment(DecisionReason.IDLE, before, start, "no worker runs; a new one starts with this many")
        ]
    elif threads.anything_waits(view, context.rate) or (context.sample.replicas == 0 and replicas > 0):
        text = (
            f"{explain.waits(view.unstarted)} and {explain.count(view.busy, 'task')} run; "
            f"a worker bears {explain.count(safe, 'green thread')}{_because(context)}"
        )
        steps = [threads_adjustment(DecisionReason.SAFE_THREADS, before, safe, text)]
    else:
        steps = [_steady(context, before, max(1, min(replicas, len(view.serving) or replicas)))]
    steps.extend(_holds(context, before, steps[-1].after))
    cap = limits.total_of_threads(spec, context.sample, replicas, steps[-1].after)
    return (*steps, cap) if cap is not None else tuple(steps)


def _steady(context: DecisionContext, before: int, workers: int) -> Adjustment:
    """For the rate; never fewer than tasks run, for then none starts until some of them have ended."""
    spec, worker, busy = context.spec, context.worker, context.view.busy
    for_rate, running = threads.steady_need(context.rate, worker, workers), ceil(busy / workers)
    text = (
        f"{explain.rate(context.rate)} of {explain.seconds(worker.runtime_seconds)} each need so many green threads per worker, with room for chance"
        if for_rate >= running
        else f"{explain.count(busy, 'task')} run"
    )
    wanted = max(spec.threads_min, min(worker.safe_threads, max(for_rate, running)))
    return threads_adjustment(DecisionReason.RATE, before, wanted, text)


def _because(context: DecisionContext) -> str:
    cause = context.state.pressure.cause
    return f" ({cause})" if context.state.pressure.cap is not None and cause else ""


def _holds(context: DecisionContext, before: int, wanted: int) -> list[Adjustment]:
    if (step := _downstream(context, wanted)) is not None:
        return [step]
    uses = context.tuning.uses
    if wanted < before and context.in_first_window and uses("first-window"):
        held = max(wanted, min(before, context.worker.safe_threads))
        text = "metrics have been complete for too short a time to take green threads away"
        return (
            [threads_adjustment(DecisionReason.FIRST_WINDOW, wanted, held, text, context.first_window_ends_at)]
            if held > wanted
            else []
        )
    most = stabilization.first_within(context.state.high_threads, context.now, threads.LOWER_WINDOW_SECONDS)
    if wanted < before and most is not None and most.value > wanted and uses("thread-stabilization"):
        held = min(before, most.value, context.worker.safe_threads)
        if held > wanted:
            text = f"{explain.count(held, 'green thread')} were needed within the last {explain.seconds(threads.LOWER_WINDOW_SECONDS)}"
            return [
                threads_adjustment(
                    DecisionReason.STABILIZATION, wanted, held, text, most.at + threads.LOWER_WINDOW_SECONDS
                )
            ]
    return []


def _downstream(context: DecisionContext, wanted: int) -> Adjustment | None:
    """The most green threads that the experiment with the downstream allows."""
    experiment, least = context.state.scalability, context.spec.threads_min
    if not context.view.workers or not context.tuning.uses("full-downstream"):
        return None
    if experiment.frozen_until is not None or experiment.probing:
        share = 1.0 if experiment.frozen_until is not None else scalability.PROBE
        most = max(least, int(share * experiment.frozen_threads))
        text = "more green threads brought no more throughput: something downstream is saturated"
        until = experiment.frozen_until
    elif experiment.rung is not None:
        most = max(least, ceil(experiment.rung / max(1, len(context.view.serving))))
        text, until = scalability.UNPROVEN, scalability.judged_at(experiment)
    else:
        return None
    return threads_adjustment(DecisionReason.SATURATED_DOWNSTREAM, wanted, most, text, until) if wanted > most else None


def threads_now(spec: ScalingSpec, sample: Sample) -> int:
    """What the pods were told; the start value where nobody has said anything."""
    told = [pod.threads for pod in sample.pods if pod.threads is not None and not pod.terminating]
    return max(spec.threads_min, min(spec.threads_max, max(told, default=spec.threads_start)))
