"""What happens while metrics are missing: the pool holds, or rises to its floor, and says why. Nothing scales in."""

from __future__ import annotations

from dataclasses import replace

from . import explain
from .constraints import hpa, limits, stabilization
from .context import threads_adjustment, workers_adjustment
from .model import Adjustment, Decision, DecisionReason, Mode, Problem, Sample, ScalingSpec, Why
from .recommendation import manual
from .recommendation.green_threads import threads_now
from .state import State
from .tuning import Tuning


def decide_without_metrics(  # noqa: PLR0917
    spec: ScalingSpec, state: State, sample: Sample, issues: tuple[Problem, ...], now: float, tuning: Tuning
) -> tuple[Decision, State]:
    """Hold what the last known rate needs, or raise to the floor."""
    state = replace(state, complete_since=None, idle_since=None)
    workers = manual(spec, sample) if spec.mode is Mode.MANUAL else _hold(spec, state, sample, issues, now, tuning)
    replicas = workers[-1].after
    held = min(spec.threads_max, state.threads if state.threads is not None else threads_now(spec, sample))
    text = "held: what the workers do is not known"
    threads = [threads_adjustment(DecisionReason.METRICS_MISSING, held, held, text)]
    if (cap := limits.total_of_threads(spec, sample, replicas, held)) is not None:
        threads.append(cap)
    decision = Decision(
        replicas=replicas,
        threads=threads[-1].after,
        metrics_issues=issues,
        active=False,
        limited=DecisionReason.NONE,
        learned=state.estimates.learned(spec, tuning),
        deletion_order=explain.deletion_order(sample),
        why=Why(
            at=now,
            inputs=(("replicas", float(sample.replicas)), ("threads", float(threads[-1].after))),
            adjustments=(*workers, *threads),
            binding=workers[-1].reason,
            summary=explain.summary(replicas, threads[-1].after, workers[-1].text),
        ),
    )
    return decision, state


def _hold(  # noqa: PLR0917
    spec: ScalingSpec, state: State, sample: Sample, issues: tuple[Problem, ...], now: float, tuning: Tuning
) -> tuple[Adjustment, ...]:
    current, seen_at = sample.replicas, state.estimates.seen_at
    held = [workers_adjustment(DecisionReason.METRICS_MISSING, current, current, f"held: {issues[0].message}")]
    need = int(min(state.deferred_need, hpa.highest_allowed(spec.scale_up, current, state.changes, now)))
    hiccup = max(tuning.lasting_scrapes * spec.scrape_interval_seconds, stabilization.up_window_seconds(spec))
    if 0 < current < need and seen_at is not None and now - seen_at > hiccup:
        text = (
            f"{explain.count(need, 'worker')} as the last known rate needs: the rest of it was to wait for a while, and "
            f"without metrics nobody sees for how long"
        )
        held.append(workers_adjustment(DecisionReason.RATE, current, need, text))
    if spec.missing_metrics_floor is not None and spec.missing_metrics_floor > held[-1].after:
        text = f"whenBlind asks for at least {explain.count(spec.missing_metrics_floor, 'worker')} while {issues[0].message}"
        held.append(workers_adjustment(DecisionReason.FLOOR, held[-1].after, spec.missing_metrics_floor, text))
    for bound in limits.USER_LIMITS:
        step = bound(spec, sample, now, held[-1].after)
        if step is not None and step.before > current and step.after < current:
            step = replace(step, after=current)
        if step is not None and step.after >= current:  # bounds stop growth here; they never take a worker away
            held.append(step)
    return tuple(held)
