"""While metrics are missing the pool holds, or rises to its floor or what the last known rate needs, and says why."""

from __future__ import annotations

from dataclasses import replace

from . import explain
from .constraints import hpa, limits, stabilization
from .context import Tick
from .model import Adjustment, DecisionReason, Problem
from .recommendation.green_threads import threads_now
from .state import Need, State
from .tuning import Tuning


def since_now(tick: Tick, state: State, replicas: int) -> State:
    """There is no past to look back on: until metrics have been complete for a window, what is there is needed."""
    workers, threads = Need(tick.now, replicas), Need(tick.now, threads_now(tick, state))
    return replace(state, idle_since=None, high_needs=(workers,), high_threads=(threads,))


def held_threads(tick: Tick, state: State, replicas: int) -> tuple[Adjustment, ...]:
    """As many green threads as there are, within the user's total."""
    held = min(tick.spec.threads_max, threads_now(tick, state))
    text = "held: what the workers do is not known"
    first = Adjustment(DecisionReason.METRICS_MISSING, "threads", held, held, text)
    cap = limits.total_of_threads(tick, replicas, held)
    return (first,) if cap is None else (first, cap)


def held_workers(tick: Tick, state: State, issues: tuple[Problem, ...], tuning: Tuning) -> tuple[Adjustment, ...]:
    """As many as there are, as the last known rate needs, or as the user's floor says."""
    spec, now, current = tick.spec, tick.now, tick.current
    seen_at, why = state.estimates.seen_at, issues[0].message
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
        step = bound(tick, held[-1].after)
        if step is not None and max(step.before, step.after) > current:
            held.append(replace(step, after=max(current, step.after)))  # a bound stops growth and takes no worker away
    return tuple(held)
