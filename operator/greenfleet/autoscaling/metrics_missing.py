"""What happens while metrics are missing: the pool holds, or rises to its floor, and says why. Nothing scales in."""

from __future__ import annotations

from dataclasses import replace

from . import explain
from .constraints import hpa, limits, stabilization
from .model import Adjustment, DecisionReason, Problem, Sample, ScalingSpec
from .recommendation.green_threads import threads_now
from .state import Need, State
from .tuning import Tuning


def since_now(spec: ScalingSpec, state: State, sample: Sample, replicas: int, now: float) -> State:
    """There is no past to look back on: until metrics have been complete for a window, what is there is needed."""
    threads = Need(now, threads_now(spec, state, sample))
    return replace(state, idle_since=None, high_needs=(Need(now, replicas),), high_threads=(threads,))


def held_threads(spec: ScalingSpec, state: State, sample: Sample, replicas: int) -> tuple[Adjustment, ...]:
    """As many green threads as there are, within the user's total."""
    held = min(spec.threads_max, threads_now(spec, state, sample))
    text = "held: what the workers do is not known"
    first = Adjustment(DecisionReason.METRICS_MISSING, "threads", held, held, text)
    cap = limits.total_of_threads(spec, sample, replicas, held)
    return (first,) if cap is None else (first, cap)


def held_workers(  # noqa: PLR0917
    spec: ScalingSpec, state: State, sample: Sample, issues: tuple[Problem, ...], now: float, tuning: Tuning
) -> tuple[Adjustment, ...]:
    """As many as there are, as the last known rate needs, or as the user's floor says."""
    current, seen_at, why = sample.replicas, state.estimates.seen_at, issues[0].message
    held = [Adjustment(DecisionReason.METRICS_MISSING, "workers", current, current, f"held: {why}")]
    need = int(min(state.deferred_need, hpa.highest_allowed(spec.scale_up, current, state.changes, now)))
    hiccup = tuning.lasting(stabilization.up_window_seconds(spec), spec.scrape_interval_seconds)
    if 0 < current < need and seen_at is not None and now - seen_at > hiccup:
        text = f"{explain.workers(need)} as the last known rate needs: without metrics nobody sees how long it can wait"
        held.append(Adjustment(DecisionReason.RATE, "workers", current, need, text))
    floor = spec.missing_metrics_floor or 0
    text = f"onMissingMetrics asks for at least {explain.workers(floor)} while {why}"
    if (raised := limits.at_least(floor, held[-1].after, DecisionReason.FLOOR, text)) is not None:
        held.append(raised)
    for bound in limits.USER_LIMITS:
        step = bound(spec, sample, now, held[-1].after)
        if step is not None and step.before > current and step.after < current:
            step = replace(step, after=current)
        if step is not None and step.after >= current:  # bounds stop growth here; they never take a worker away
            held.append(step)
    return tuple(held)
