"""Workers that the load asks for, before anything holds them back, and the sentence that says why."""

from __future__ import annotations

from . import limits, warm, why
from .context import Context, workers_step
from .types import Limit, Sample, ScalingSpec, Step


def wanted(context: Context) -> Step:
    """Workers for the rate, for the deadline, to keep warm, and the one that stays until the pool has been idle."""
    if context.current == 0 and not context.sample.pods:
        asleep = _asleep(context)
        if asleep is not None:
            return asleep
    step = _for_load(context)
    kept, until = warm.wanted(context.state.proofs, context.now)
    if kept > step.after:
        text = (
            f"{why.count(kept, 'worker')} stay warm: twice of late a burst could not be started within "
            f"{why.seconds(context.spec.max_wait_seconds)} because a pod takes {why.seconds(context.worker.startup_seconds)}"
        )
        return workers_step(Limit.WARM, context.current, kept, text, until)
    return step


def _asleep(context: Context) -> Step | None:
    """At zero workers: the reason to stay there, or None when there is something to do."""
    kept, _ = warm.wanted(context.state.proofs, context.now)
    if context.view.ready > context.spec.activation or context.view.unacked > 0 or kept > 0:
        return None
    if context.view.ready > 0:
        text = f"{why.waits(context.view.ready)}, not more than the activation of {context.spec.activation}"
        return workers_step(Limit.ACTIVATION, context.current, 0, text)
    return workers_step(Limit.IDLE, context.current, 0, "nothing waits, nothing runs")


def _for_load(context: Context) -> Step:
    due, spec = context.due, context.spec
    per_worker = context.worker.rate(context.worker.safe_threads)
    if due is not None and due.workers > max(context.rate_workers, 1):
        able = f"{why.count(due.workers, 'worker')} can start them within {why.seconds(due.within_seconds)}"
        promise = (
            f"the {why.seconds(spec.max_wait_seconds)} of maxWait are out of reach for the oldest"
            if due.late
            else f"as maxWait of {why.seconds(spec.max_wait_seconds)} asks"
        )
        text = f"{why.waits(due.messages)}; one worker does {why.rate(per_worker)}; {able}, {promise}"
        return workers_step(Limit.DEADLINE, context.current, context.need, text)
    if context.need > 1:
        text = f"{why.rate(context.rate)} arrive; one worker does {why.rate(per_worker)}{_missing(context)}"
        return workers_step(Limit.RATE, context.current, context.need, text)
    return _last_worker(context)


def _missing(context: Context) -> str:
    """What a fleet that does not keep up with the rate waits for before it grows."""
    if context.missing == 0:
        return ""
    more, spec = why.count(context.missing, "more worker"), context.spec
    if max(1, context.need) >= spec.replicas_max:
        return f"; {more} would keep up, and replicas.max is {spec.replicas_max}"
    return f"; {more} would keep up, and will come before messages wait for longer than {why.seconds(spec.max_wait_seconds)}"


def _last_worker(context: Context) -> Step:
    """One worker until the pool has been idle for the cooldown."""
    idle_since, view = context.state.idle_since, context.view
    if idle_since is not None:
        until = idle_since + context.spec.cooldown_seconds
        if context.now < until:
            text = f"nothing waits and nothing runs; one worker stays for the cooldown of {why.seconds(context.spec.cooldown_seconds)}"
            return workers_step(Limit.COOLDOWN, context.current, 1, text, until)
        text = f"nothing has waited or run for {why.seconds(context.spec.cooldown_seconds)}"
        return workers_step(Limit.IDLE, context.current, 0, text)
    if view.unstarted == 0 and view.busy == 0:
        if view.scheduled > 0:
            text = f"one worker stays for {why.count(view.scheduled, 'task')} held for an ETA"
        elif view.unacked == 0:
            text = "tasks came and went since the last scrape"
        else:
            text = f"one worker stays, to end or restore {why.count(view.unacked, 'unacked message')}"
        return workers_step(Limit.COOLDOWN, context.current, 1, text)
    per_worker = context.worker.rate(context.worker.safe_threads)
    enough = _missing(context) or ", so its green threads are enough"
    text = f"{why.rate(context.rate)} arrive and {why.waits(view.unstarted)}; one worker does {why.rate(per_worker)}{enough}"
    return workers_step(Limit.RATE, context.current, 1, text)


def manual(spec: ScalingSpec, sample: Sample) -> tuple[Step, ...]:
    """The user's number, within the bounds that are not about load. A human may ask for fewer than `replicas.min`."""
    steps = [
        workers_step(Limit.MANUAL, sample.replicas, spec.manual_replicas, "mode is manual: spec.manualReplicas decides")
    ]
    for step in (limits.maximum(spec, steps[-1].after),):
        if step is not None:
            steps.append(step)
    step = limits.total_of_workers(spec, sample, steps[-1].after)
    return (*steps, step) if step is not None else tuple(steps)
