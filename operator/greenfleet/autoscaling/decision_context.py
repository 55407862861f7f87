"""What a complete sample and the memory amount to: rates, needs, and the model of one worker."""

from __future__ import annotations

from dataclasses import replace

from . import arrivals, constraints, scalability, stabilization, warm_pool, workers
from .capacity import Capacity, capacity
from .context import DecisionContext
from .model import Sample, ScalingSpec
from .state import State
from .tuning import Tuning
from .validation import Observation


def decision_context(
    spec: ScalingSpec, state: State, sample: Sample, view: Observation, now: float, *, tuning: Tuning
) -> DecisionContext:
    worker = capacity(spec, state.estimates, state.pressure, tuning)
    worker = replace(worker, safe_threads=_shared(spec, sample, worker.safe_threads))
    rate = arrivals.present_rate(state.arrivals, now, spec.scrape_interval_seconds, tuning)
    fleet = workers.existing(view, sample.replicas, worker, now)
    due = workers.for_deadline(spec, arrivals.waiting(state.arrivals, view.unstarted), fleet, worker, tuning)
    burst = arrivals.burst(state.arrivals, now, constraints.YOUNG_BURST_SECONDS)
    rate_workers = workers.for_rate(spec, rate, view.unstarted, fleet, worker, tuning=tuning)
    due_workers = due.workers if due is not None else 0
    if max(rate_workers, due_workers) < sample.replicas and state.estimates.cpu_unproven:
        careful = workers.for_rate(
            spec, rate, view.unstarted, fleet, _careful(spec, state, worker, tuning), tuning=tuning
        )
        rate_workers = max(rate_workers, min(careful, sample.replicas))
    at_once = workers.for_rate_at_once(rate, fleet, worker)
    if not tuning.uses("rate"):
        rate_workers = at_once = 0
    if not tuning.uses("deadline"):
        due, due_workers = None, 0
    need = min(max(rate_workers, due_workers), 10 * max(1, spec.replicas_max))
    proven = due_workers if due is not None and due.late else 0
    window = stabilization.down_window_seconds(spec, worker.startup_seconds)
    above_one = need if need > 1 else 0  # the last worker goes by the cooldown alone
    state = replace(
        state,
        cold_start_misses=warm_pool.prove(state.cold_start_misses, min(proven, spec.replicas_max), now)
        if tuning.uses("warm-pool")
        else (),
        high_needs=stabilization.with_high(state.high_needs, now, above_one, window),
        low_needs=stabilization.with_low(state.low_needs, now, need, stabilization.up_window_seconds(spec)),
        deferred_replicas=0 if scalability.holds_growth(state.scalability) else at_once,
    )
    return DecisionContext(
        spec=spec,
        sample=sample,
        view=view,
        state=state,
        now=now,
        tuning=tuning,
        worker=worker,
        rate=rate,
        burst=burst if burst > constraints.BACKLOG_SECONDS * worker.rate(worker.safe_threads) else 0.0,
        due=due,
        rate_workers=rate_workers,
        need=need,
        missing=max(0, at_once - need),
        down_window_seconds=window,
    )


def _careful(spec: ScalingSpec, state: State, worker: Capacity, tuning: Tuning) -> Capacity:
    """The same worker, if its tasks cost as much among many as they do now that they come alone: nobody leaves on a guess."""
    dear = replace(state.estimates, cpu_per_task_seconds=state.estimates.cpu.mean)
    found = capacity(spec, dear, state.pressure, tuning)
    return replace(found, safe_threads=min(worker.safe_threads, found.safe_threads))


def _shared(spec: ScalingSpec, sample: Sample, safe: int) -> int:
    """Green threads that a worker may really have: a fleet with a total cannot give c_safe to everyone."""
    if spec.threads_total is None:
        return safe
    alive = max(1, sample.replicas, sum(1 for pod in sample.pods if not pod.terminating))
    return max(1, min(safe, max(spec.threads_min, spec.threads_total // alive)))
