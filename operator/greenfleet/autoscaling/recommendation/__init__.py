"""Workers that the load asks for, before anything holds them back, and the sentence that says why."""

from __future__ import annotations

from dataclasses import replace

from .. import explain
from ..constraints import limits, stabilization
from ..context import DecisionContext, Tick
from ..model import Adjustment, DecisionReason
from ..state import State
from ..tuning import Tuning
from ..validation import Observation
from .workers import deferred, existing, for_deadline, for_rate


def context_of(tick: Tick, state: State, observation: Observation, tuning: Tuning) -> DecisionContext:
    """What a complete observation and the estimates amount to: rates, needs, and the model of one worker."""
    spec, sample, now, estimates = tick.spec, tick.sample, tick.now, state.estimates
    worker, arrivals = estimates.worker(spec, tuning), estimates.arrivals
    worker = replace(worker, safe_threads=_shared(tick, worker.safe_threads))
    fleet = existing(observation, sample.replicas, worker, now, tuning)
    batches = arrivals.waiting(observation.unstarted) if tuning.uses("deadline") else ()
    demand = for_deadline(spec, batches, fleet, worker, tuning)
    rate = arrivals.present_rate(spec.scrape_interval_seconds, tuning)
    at_once = for_rate(rate, fleet, worker) if tuning.uses("rate") else 0
    rate_workers = deferred(spec, at_once, observation.unstarted, fleet, worker, tuning)
    need = min(max(rate_workers, demand.workers if demand is not None else 0), 10 * max(1, spec.replicas_max))
    window, up_window = stabilization.down_window_seconds(spec, tuning), stabilization.up_window_seconds(spec)
    above_one = need if need > 1 else 0  # the last worker goes by the cooldown alone
    state = replace(
        state,
        high_needs=stabilization.remember(state.high_needs, now, above_one, window),
        low_needs=stabilization.remember(state.low_needs, now, need, up_window, lowest=True),
        deferred_need=at_once if estimates.downstream.ceiling is None else 0,
    )
    return DecisionContext(
        spec, sample, now, observation, state, tuning, worker, rate, demand, rate_workers, need, max(0, at_once - need)
    )


def _shared(tick: Tick, safe: int) -> int:
    """Green threads that a worker may really have: a fleet with a total cannot give all of them to everyone."""
    spec = tick.spec
    if spec.threads_total is None:
        return safe
    alive = max(1, tick.current, sum(1 for pod in tick.sample.pods if not pod.terminating))
    return max(1, min(safe, max(spec.threads_min, spec.threads_total // alive)))


def recommend(context: DecisionContext) -> Adjustment:
    """Workers for the rate or for the deadline, and the one that stays until the pool has been idle."""
    spec, seen, demand, need = context.spec, context.observation, context.demand, context.need
    one_does = f"one worker does {explain.rate(context.worker.rate)}"
    rest = "what runs ends or is given back as workers leave" if context.sample.pods else "nothing runs"
    if context.current == 0 and seen.ready <= spec.activation_threshold and (context.sample.pods or seen.unacked <= 0):
        reason, workers, text = DecisionReason.IDLE, 0, f"nothing waits, {rest}"
        if seen.ready > 0:
            reason, limit = DecisionReason.ACTIVATION, spec.activation_threshold
            text = f"{explain.waits(seen.ready)}, not more than scaling.activationThreshold ({limit})"
    elif demand is not None and demand.workers > max(context.rate_workers, 1):
        able = f"{explain.workers(demand.workers)} can start them within {explain.seconds(demand.within_seconds)}"
        promise = f"maxWait of {explain.seconds(spec.max_wait_seconds)}"
        promise = f"{promise} is out of reach for the oldest" if demand.late else f"as {promise} asks"
        reason, workers = DecisionReason.DEADLINE, need
        text = f"{explain.waits(demand.messages)}; {one_does}; {able}, {promise}"
    elif need > 1:
        reason, workers = DecisionReason.RATE, need
        text = f"{explain.rate(context.rate)} arrive; {one_does}{_deferred(context)}"
    else:
        return _last_worker(context, one_does)
    return Adjustment(reason, "workers", context.current, workers, text)


def _deferred(context: DecisionContext) -> str:
    """What a fleet that does not keep up with the rate waits for before it grows."""
    if context.deferred == 0:
        return ""
    most = context.spec.replicas_max
    come = f"will come before messages wait for longer than {explain.seconds(context.spec.max_wait_seconds)}"
    come = f"replicas.max is {most}" if max(1, context.need) >= most else come
    return f"; {explain.count(context.deferred, 'more worker')} would keep up, and {come}"


def _last_worker(context: DecisionContext, one_does: str) -> Adjustment:
    """One worker until the pool has been idle for the cooldown."""
    idle_since, seen, cooldown = context.state.idle_since, context.observation, context.spec.cooldown_seconds
    reason, workers, until = DecisionReason.COOLDOWN, 1, None
    if idle_since is not None and context.now >= idle_since + cooldown:
        reason, workers, text = DecisionReason.IDLE, 0, f"nothing has waited or run for {explain.seconds(cooldown)}"
    elif idle_since is not None:
        until = idle_since + cooldown
        text = f"nothing waits and nothing runs; one worker stays for the cooldown of {explain.seconds(cooldown)}"
    elif seen.unstarted > 0 or seen.busy > 0:
        reason, enough = DecisionReason.RATE, _deferred(context) or ", so its green threads are enough"
        text = f"{explain.rate(context.rate)} arrive and {explain.waits(seen.unstarted)}; {one_does}{enough}"
    elif seen.scheduled > 0:
        text = f"one worker stays for {explain.count(seen.scheduled, 'task')} held for an ETA"
    elif seen.unacked > 0:
        text = f"one worker stays, to end or restore {explain.count(seen.unacked, 'unacked message')}"
    else:
        text = "tasks came and went since the last scrape"
    return Adjustment(reason, "workers", context.current, workers, text, until)


def manual(tick: Tick) -> tuple[Adjustment, ...]:
    """The user's number, within the bounds that are not about load. A human may ask for fewer than `replicas.min`."""
    text = "mode is Manual: spec.manualReplicas decides"
    steps = [Adjustment(DecisionReason.MANUAL, "workers", tick.current, tick.spec.manual_replicas, text)]
    for limit in (limits.maximum, limits.total_of_workers):
        if (step := limit(tick, steps[-1].after)) is not None:
            steps.append(step)
    return tuple(steps)
