"""What one more sample adds to what is remembered."""

from __future__ import annotations

from dataclasses import replace

from . import arrivals, behavior, learning, pressure, scalability
from .capacity import capacity
from .learning import CounterDelta
from .model import Sample, ScalingSpec
from .state import Arrival, State
from .tuning import Tuning
from .validation import Observation


def remember_replicas(spec: ScalingSpec, state: State, sample: Sample, now: float, *, tuning: Tuning) -> State:
    delta = 0 if state.replicas is None else sample.replicas - state.replicas
    ceiling = pressure.recognise(state.pressure, spec, state.estimates, tuning)
    changes = behavior.remember(state.changes, delta, now, spec.scale_up, spec.scale_down)
    estimates, counted = learning.learn_startup(state, sample.pods)
    if (sample.replicas, changes, counted) == (state.replicas, state.changes, state.counted_pods) and (
        ceiling is state.pressure
    ):
        return state  # a thousand idle pools every two seconds: what does not change is not copied
    return replace(
        state, replicas=sample.replicas, changes=changes, estimates=estimates, counted_pods=counted, pressure=ceiling
    )


def update(
    spec: ScalingSpec, state: State, sample: Sample, view: Observation, now: float, *, tuning: Tuning
) -> tuple[State, CounterDelta]:
    """The memory after this sample. A sample that was seen before teaches nothing."""
    sighted = state.sighted_since if state.sighted_since is not None else now
    idle_since = None
    if view.empty and view.scheduled == 0:
        idle_since = state.idle_since if state.idle_since is not None else now
    if (sighted, idle_since) != (state.sighted_since, state.idle_since):
        state = replace(state, sighted_since=sighted, idle_since=idle_since)
    if state.seen_at is not None and view.at <= state.seen_at:
        return state, CounterDelta()
    progress, counters = learning.observe(state, view, sample.pods)
    if progress.started > 0 and state.idle_since is not None:
        state = replace(state, idle_since=None)  # it looked idle at both scrapes, and was not in between
    state = _count_arrivals(spec, state, view, progress, now)
    worker = capacity(spec, state.estimates, state.pressure, tuning)
    rate = arrivals.rate_per_second(state.arrivals, now, spec.scrape_interval_seconds, tuning=tuning)
    throughput = learning.throughput_per_second(state.throughput, progress)
    return (
        replace(
            state,
            counters=counters,
            throughput=throughput,
            estimates=learning.learn(spec, state.estimates, view, progress, tuning),
            pressure=pressure.update(state.pressure, spec, view, progress, worker=worker, now=now, tuning=tuning),
            scalability=scalability.update(
                state.scalability, view, progress, rate=rate, throughput=throughput, worker=worker, now=now
            ),
        ),
        progress,
    )


def _count_arrivals(spec: ScalingSpec, state: State, view: Observation, progress: CounterDelta, now: float) -> State:
    if state.seen_at is None:
        found = (Arrival(view.at, view.at, view.unstarted),) if view.unstarted > 0 else ()
        return replace(state, seen_at=view.at, unstarted=view.unstarted, arrivals=found, deficit_at=view.at)
    amount, deficit, deficit_at = arrivals.measure(
        state.seen_at,
        view.at,
        progress.started + view.unstarted - state.unstarted,
        state.deficit,
        state.deficit_at,
    )
    new = arrivals.spread(state.seen_at, view.at, amount, 2 * spec.scrape_interval_seconds)
    history = arrivals.remember(state.arrivals, new, view.unstarted, now, spec.max_wait_seconds)
    return replace(
        state, seen_at=view.at, unstarted=view.unstarted, arrivals=history, deficit=deficit, deficit_at=deficit_at
    )
