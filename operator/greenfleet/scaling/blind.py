"""What happens without knowledge: the pool holds, or rises to its floor, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import limits, why
from .capacity import capacity
from .context import threads_step, workers_step
from .needs import manual
from .outcome import learned, leave_first
from .state import State
from .thread_policy import threads_now
from .types import Decision, Limit, Mode, Problem, Sample, ScalingSpec, Step, Why


def decide_blind(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float
) -> tuple[Decision, State]:
    """Hold, or raise to the floor. Nothing scales in on less than complete knowledge."""
    state = replace(state, sighted_since=None, idle_since=None)
    steps = manual(spec, sample) if spec.mode is Mode.MANUAL else _hold(spec, sample, problems, now)
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


def _hold(spec: ScalingSpec, sample: Sample, problems: tuple[Problem, ...], now: float) -> tuple[Step, ...]:
    current = sample.replicas
    steps = [workers_step(Limit.BLIND, current, current, f"held: {problems[0].message}")]
    if spec.blind_floor is not None and spec.blind_floor > current:
        text = f"whenBlind asks for at least {why.count(spec.blind_floor, 'worker')} while {problems[0].message}"
        steps.append(workers_step(Limit.FLOOR, current, spec.blind_floor, text))
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
