"""What happens without knowledge: the pool holds, or rises to its floor, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import behavior, limits, stabilization, why
from .capacity import capacity
from .context import threads_step, workers_step
from .needs import manual
from .outcome import learned, leave_first
from .state import State
from .thread_policy import threads_now
from .types import Decision, Limit, Mode, Problem, Sample, ScalingSpec, Step, Why

LASTING_SCRAPES = 3
"""After so many without a sample, blindness is no hiccup."""


def decide_blind(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float
) -> tuple[Decision, State]:
    """Hold what the last known rate needs, or raise to the floor. Nothing scales in on less than complete knowledge."""
    state = replace(state, sighted_since=None, idle_since=None)
    steps = manual(spec, sample) if spec.mode is Mode.MANUAL else _hold(spec, state, sample, problems, now)
    replicas = steps[-1].after
    told = min(spec.threads_max, state.threads if state.threads is not None else threads_now(spec, sample))
    thread_steps = [threads_step(Limit.BLIND, told, told, "held: what the workers do is not known")]
    cap = limits.total_of_threads(spec, sample, replicas, told)
    if cap is not None:
        thread_steps.append(cap)
    decided = thread_steps[-1].after
    worker = capacity(spec, state.estimates, state.pressure)
    decision = Decision(
        replicas=replicas,
        threads=decided,
        blind=problems,
        active=False,
        limited=Limit.NONE,
        learned=learned(state, worker),
        leave_first=leave_first(sample),
        why=Why(
            at=now,
            inputs=(("replicas", float(sample.replicas)), ("threads", float(decided))),
            steps=(*steps, *thread_steps),
            binding=steps[-1].limit,
            summary=why.summary(replicas, decided, steps[-1].text),
        ),
    )
    return decision, state


def _lasts(spec: ScalingSpec, state: State, now: float) -> bool:
    """A scrape or two that are missing are no reason to start a pod."""
    patience = max(LASTING_SCRAPES * spec.scrape_interval_seconds, stabilization.up_window_seconds(spec))
    return state.seen_at is not None and now - state.seen_at > patience


def _hold(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float
) -> tuple[Step, ...]:
    current = sample.replicas
    steps = [workers_step(Limit.BLIND, current, current, f"held: {problems[0].message}")]
    need = min(state.unseen_need, behavior.highest_allowed(spec.scale_up, current, state.changes, now))
    if 0 < current < need and _lasts(spec, state, now):
        text = (
            f"{why.count(int(need), 'worker')} as the last known rate needs: the rest of it was to wait for a while, and "
            f"nobody sees for how long"
        )
        steps.append(workers_step(Limit.RATE, current, int(need), text))
    if spec.blind_floor is not None and spec.blind_floor > steps[-1].after:
        text = f"whenBlind asks for at least {why.count(spec.blind_floor, 'worker')} while {problems[0].message}"
        steps.append(workers_step(Limit.FLOOR, steps[-1].after, spec.blind_floor, text))
    bounds: tuple[Callable[[int], Step | None], ...] = (
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
