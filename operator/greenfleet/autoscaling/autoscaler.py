"""One sample in, one decision out: validate, estimate, recommend, constrain.

Each step is a package of its own; every number is in `tuning.py`. docs/scaling.md tells the same in plain words.
"""

from __future__ import annotations

from dataclasses import replace

from . import explain, metrics_missing
from .constraints import CONSTRAINTS, hpa
from .constraints.stabilization import remember
from .context import DecisionContext, Tick
from .model import Adjustment, Decision, DecisionReason, Mode, Sample, ScalingSpec, Why
from .recommendation import context_of, manual, recommend
from .recommendation.green_threads import threads_for
from .state import State
from .tuning import DEFAULT, Tuning
from .validation import validate


def decide(
    spec: ScalingSpec, state: State, sample: Sample, now: float, tuning: Tuning = DEFAULT
) -> tuple[Decision, State]:
    """What the fleet should look like now, and what to remember. Pure: the same arguments give the same answer."""
    tick = Tick(spec, sample, now)
    state = _meet(tick, state, tuning)
    observation, issues = validate(spec, state.estimates.workers, sample, now, tuning)
    workers = manual(tick) if spec.mode is Mode.MANUAL else ()
    limited = DecisionReason.NONE
    inputs: tuple[tuple[str, float], ...] = (("replicas", float(sample.replicas)),)
    if observation is None:
        workers = workers or metrics_missing.held_workers(tick, state, issues, tuning)
        state = metrics_missing.since_now(tick, state, workers[-1].after)
        threads = metrics_missing.held_threads(tick, state, workers[-1].after)
    else:
        estimates, delta = state.estimates.update(spec, sample, observation, tuning)
        idle = observation.empty and observation.scheduled == 0 and delta.started == 0
        idle_since = (now if state.idle_since is None else state.idle_since) if idle else None
        state = replace(state, estimates=estimates, idle_since=idle_since)
        context = context_of(tick, state, observation, tuning)
        workers = workers or _constrain(context, recommend(context))
        threads = threads_for(context, workers[-1].after)
        limited, inputs = explain.limited(context, workers), explain.inputs(context, delta)
        high_threads = remember(state.high_threads, now, threads[0].after, tuning.long_seconds)
        state = replace(context.state, threads=threads[-1].after, high_threads=high_threads)
    replicas, green_threads = workers[-1].after, threads[-1].after
    active = not issues and spec.mode is not Mode.MANUAL and not (spec.pause_in and spec.pause_out)
    summary = explain.summary(replicas, green_threads, workers[-1].text)
    why = Why(now, inputs, (*workers, *threads), workers[-1].reason, summary)
    learned = state.estimates.learned(spec, tuning)
    return Decision(replicas, green_threads, issues, active, limited, learned, why), state


def _meet(tick: Tick, state: State, tuning: Tuning) -> State:
    """What the API server tells, whatever Prometheus says."""
    if state.replicas is None:
        state = metrics_missing.since_now(tick, state, tick.current)
    delta = 0 if state.replicas is None else tick.current - state.replicas
    changes = hpa.remember(state.changes, delta, tick.now, tick.spec.scale_up, tick.spec.scale_down)
    estimates = state.estimates.meet(tick.sample, tuning)
    if (tick.current, changes) == (state.replicas, state.changes) and estimates is state.estimates:
        return state  # a thousand idle pools every two seconds: what does not change is not copied
    return replace(state, replicas=tick.current, changes=changes, estimates=estimates)


def _constrain(context: DecisionContext, first: Adjustment) -> tuple[Adjustment, ...]:
    adjustments = [first]
    for name, constraint in CONSTRAINTS:
        adjustment = constraint(context, adjustments[-1].after) if context.tuning.uses(name) else None
        if adjustment is not None:
            adjustments.append(adjustment)
    return tuple(adjustments)
