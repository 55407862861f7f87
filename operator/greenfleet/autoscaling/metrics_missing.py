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
    """There is no past to look back on: what is there counts as needed, until metrics have been complete for a
    window.
    """
    threads = state.threads if state.threads is not None else threads_now(spec, sample)
    return replace(state, idle_since=None, high_needs=(Need(now, replicas),), high_threads=(Need(now, threads),))


def held_threads(spec: ScalingSpec, state: State, sample: Sample, replicas: int) -> tuple[Adjustment, ...]:
    """As many green threads as there are, within the user's total."""
    held = min(spec.threads_max, state.threads if state.threads is not None else threads_now(spec, sample))
    text = "held: what the workers do is not known"
    first = Adjustment(DecisionReason.METRICS_MISSING, "threads", held, held, text)
    cap = limits.total_of_threads(spec, sample, replicas, held)
    return (first,) if cap is None else (first, cap)


def held_workers(  # noqa: PLR0917
    spec: ScalingSpec, state: State, sample: Sample, issues: tuple[Problem, ...], now: float, tuning: Tuning
) -> tuple[Adjustment, ...]:
    """As many as there are, as the last known rate needs, or as the user's floor says."""
    current, seen_at = sample.replicas, state.estimates.seen_at
    held = [Adjustment(DecisionReason.METRICS_MISSING, "workers", current, current, f"held: {issues[0].message}")]
    need = int(min(state.deferred_need, hpa.highest_allowed(spec.scale_up, current, state.changes, now)))
    hiccup = tuning.lasting(stabilization.up_window_seconds(spec), spec.scrape_interval_seconds)
    if 0 < current < need and seen_at is not None and now - seen_at > hiccup:
        text = (
            f"{explain.workers(need)} as the last known rate needs: the rest of it was to wait for a while, and "
            f"without metrics nobody sees for how long"
        )
        held.append(Adjustment(DecisionReason.RATE, "workers", current, need, text))
    if spec.missing_metrics_floor is not None and spec.missing_metrics_floor > held[-1].after:
        text = (
            f"onMissingMetrics asks for at least {explain.workers(spec.missing_metrics_floor)} while "
            f"{issues[0].message}"
        )
        held.append(Adjustment(DecisionReason.FLOOR, "workers", held[-1].after, spec.missing_metrics_floor, text))
    for bound in limits.USER_LIMITS:
        step = bound(spec, sample, now, held[-1].after)
        if step is not None and step.before > current and step.after < current:
            step = replace(step, after=current)
        if step is not None and step.after >= current:  # bounds stop growth here; they never take a worker away
            held.append(step)
    return tuple(held)
