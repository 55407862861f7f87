"""Workers that the load asks for, before anything holds them back, and the sentence that says why."""

from __future__ import annotations

from . import explain, limits, warm_pool
from .context import DecisionContext, workers_adjustment
from .model import Adjustment, DecisionReason, Sample, ScalingSpec


def recommend(context: DecisionContext) -> Adjustment:
    """Workers for the rate, for the deadline, to keep warm, and the one that stays until the pool has been idle."""
    if context.current == 0 and not context.sample.pods:
        asleep = _asleep(context)
        if asleep is not None:
            return asleep
    step = _for_load(context)
    kept, until = warm_pool.wanted(context.state.cold_start_misses, context.now)
    if kept > step.after:
        text = (
            f"{explain.count(kept, 'worker')} stay warm: twice of late a burst could not be started within "
            f"{explain.seconds(context.spec.max_wait_seconds)} because a pod takes {explain.seconds(context.worker.startup_seconds)}"
        )
        return workers_adjustment(DecisionReason.WARM, context.current, kept, text, until)
    return step


def _asleep(context: DecisionContext) -> Adjustment | None:
    """At zero workers: the reason to stay there, or None when there is something to do."""
    kept, _ = warm_pool.wanted(context.state.cold_start_misses, context.now)
    if context.view.ready > context.spec.activation or context.view.unacked > 0 or kept > 0:
        return None
    if context.view.ready > 0:
        text = f"{explain.waits(context.view.ready)}, not more than the activation of {context.spec.activation}"
        return workers_adjustment(DecisionReason.ACTIVATION, context.current, 0, text)
    return workers_adjustment(DecisionReason.IDLE, context.current, 0, "nothing waits, nothing runs")


def _for_load(context: DecisionContext) -> Adjustment:
    due, spec = context.due, context.spec
    per_worker = context.worker.rate(context.worker.safe_threads)
    if due is not None and due.workers > max(context.rate_workers, 1):
        able = f"{explain.count(due.workers, 'worker')} can start them within {explain.seconds(due.within_seconds)}"
        promise = (
            f"the {explain.seconds(spec.max_wait_seconds)} of maxWait are out of reach for the oldest"
            if due.late
            else f"as maxWait of {explain.seconds(spec.max_wait_seconds)} asks"
        )
        text = f"{explain.waits(due.messages)}; one worker does {explain.rate(per_worker)}; {able}, {promise}"
        return workers_adjustment(DecisionReason.DEADLINE, context.current, context.need, text)
    if context.need > 1:
        text = f"{explain.rate(context.rate)} arrive; one worker does {explain.rate(per_worker)}{_missing(context)}"
        return workers_adjustment(DecisionReason.RATE, context.current, context.need, text)
    return _last_worker(context)


def _missing(context: DecisionContext) -> str:
    """What a fleet that does not keep up with the rate waits for before it grows."""
    if context.missing == 0:
        return ""
    more, spec = explain.count(context.missing, "more worker"), context.spec
    if max(1, context.need) >= spec.replicas_max:
        return f"; {more} would keep up, and replicas.max is {spec.replicas_max}"
    return f"; {more} would keep up, and will come before messages wait for longer than {explain.seconds(spec.max_wait_seconds)}"


def _last_worker(context: DecisionContext) -> Adjustment:
    """One worker until the pool has been idle for the cooldown."""
    idle_since, view = context.state.idle_since, context.view
    if idle_since is not None:
        until = idle_since + context.spec.cooldown_seconds
        if context.now < until:
            text = f"nothing waits and nothing runs; one worker stays for the cooldown of {explain.seconds(context.spec.cooldown_seconds)}"
            return workers_adjustment(DecisionReason.COOLDOWN, context.current, 1, text, until)
        text = f"nothing has waited or run for {explain.seconds(context.spec.cooldown_seconds)}"
        return workers_adjustment(DecisionReason.IDLE, context.current, 0, text)
    if view.unstarted == 0 and view.busy == 0:
        if view.scheduled > 0:
            text = f"one worker stays for {explain.count(view.scheduled, 'task')} held for an ETA"
        elif view.unacked == 0:
            text = "tasks came and went since the last scrape"
        else:
            text = f"one worker stays, to end or restore {explain.count(view.unacked, 'unacked message')}"
        return workers_adjustment(DecisionReason.COOLDOWN, context.current, 1, text)
    per_worker = context.worker.rate(context.worker.safe_threads)
    enough = _missing(context) or ", so its green threads are enough"
    text = f"{explain.rate(context.rate)} arrive and {explain.waits(view.unstarted)}; one worker does {explain.rate(per_worker)}{enough}"
    return workers_adjustment(DecisionReason.RATE, context.current, 1, text)


def manual(spec: ScalingSpec, sample: Sample) -> tuple[Adjustment, ...]:
    """The user's number, within the bounds that are not about load. A human may ask for fewer than `replicas.min`."""
    steps = [
        workers_adjustment(
            DecisionReason.MANUAL, sample.replicas, spec.manual_replicas, "mode is manual: spec.manualReplicas decides"
        )
    ]
    for step in (limits.maximum(spec, steps[-1].after),):
        if step is not None:
            steps.append(step)
    step = limits.total_of_workers(spec, sample, steps[-1].after)
    return (*steps, step) if step is not None else tuple(steps)
