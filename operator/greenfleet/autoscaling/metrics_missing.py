"""What happens without validation: the pool holds, or rises to its floor, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import behavior, explain, limits, stabilization
from .capacity import capacity
from .context import threads_adjustment, workers_adjustment
from .model import Adjustment, Decision, DecisionReason, Mode, Problem, Sample, ScalingSpec, Why
from .outcome import deletion_order, learned
from .recommendation import manual
from .state import State
from .thread_policy import threads_now
from .tuning import Tuning

LASTING_SCRAPES = 3
"""After so many without a sample, blindness is no hiccup."""


def decide_without_metrics(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float, *, tuning: Tuning
) -> tuple[Decision, State]:
    """Hold what the last known rate needs, or raise to the floor. Nothing scales in on less than complete metrics."""
    state = replace(state, sighted_since=None, idle_since=None)
    steps = manual(spec, sample) if spec.mode is Mode.MANUAL else _hold(spec, state, sample, problems, now)
    replicas = steps[-1].after
    told = min(spec.threads_max, state.threads if state.threads is not None else threads_now(spec, sample))
    thread_adjustments = [
        threads_adjustment(DecisionReason.BLIND, told, told, "held: what the workers do is not known")
    ]
    cap = limits.total_of_threads(spec, sample, replicas, told)
    if cap is not None:
        thread_adjustments.append(cap)
    decided = thread_adjustments[-1].after
    worker = capacity(spec, state.estimates, state.pressure, tuning)
    decision = Decision(
        replicas=replicas,
        threads=decided,
        metrics_issues=problems,
        active=False,
        limited=DecisionReason.NONE,
        learned=learned(state, worker),
        deletion_order=deletion_order(sample),
        why=Why(
            at=now,
            inputs=(("replicas", float(sample.replicas)), ("threads", float(decided))),
            adjustments=(*steps, *thread_adjustments),
            binding=steps[-1].reason,
            summary=explain.summary(replicas, decided, steps[-1].text),
        ),
    )
    return decision, state


def _lasts(spec: ScalingSpec, state: State, now: float) -> bool:
    """A scrape or two that are missing are no reason to start a pod."""
    patience = max(LASTING_SCRAPES * spec.scrape_interval_seconds, stabilization.up_window_seconds(spec))
    return state.seen_at is not None and now - state.seen_at > patience


def _hold(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float
) -> tuple[Adjustment, ...]:
    current = sample.replicas
    steps = [workers_adjustment(DecisionReason.BLIND, current, current, f"held: {problems[0].message}")]
    need = min(state.deferred_replicas, behavior.highest_allowed(spec.scale_up, current, state.changes, now))
    if 0 < current < need and _lasts(spec, state, now):
        text = (
            f"{explain.count(int(need), 'worker')} as the last known rate needs: the rest of it was to wait for a while, and "
            f"nobody sees for how long"
        )
        steps.append(workers_adjustment(DecisionReason.RATE, current, int(need), text))
    if spec.missing_metrics_floor is not None and spec.missing_metrics_floor > steps[-1].after:
        text = f"whenBlind asks for at least {explain.count(spec.missing_metrics_floor, 'worker')} while {problems[0].message}"
        steps.append(workers_adjustment(DecisionReason.FLOOR, steps[-1].after, spec.missing_metrics_floor, text))
    bounds: tuple[Callable[[int], Adjustment | None], ...] = (
        lambda wanted: limits.scheduled(spec, now, wanted),
        lambda wanted: limits.paused(spec, current, wanted),
        lambda wanted: limits.minimum(spec, wanted),
        lambda wanted: limits.maximum(spec, wanted),
        lambda wanted: limits.total_of_workers(spec, sample, wanted),
    )
    for bound in bounds:
        step = bound(steps[-1].after)
        if step is not None and step.before > current and step.after < current:
            step = replace(step, after=current)
        if step is not None and step.after >= current:  # bounds stop growth here; they never take a worker away
            steps.append(step)
    return tuple(steps)
