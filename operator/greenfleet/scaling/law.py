"""The law: one sample in, one decision out, as a chain of small policies that each say what they did.

Order (docs/law.md): knowledge, learning, what the load needs, holds, the user's limits. Threads are decided with the same
picture, and the fleet's total comes last of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from . import holds, limits, stabilization, threads, why
from .blind import decide_blind
from .capacity import capacity
from .context import Context, WorkerPolicy
from .knowledge import look
from .memory import learn, remember_replicas
from .needs import manual, wanted
from .outcome import inputs, learned, leave_first, limited
from .picture import picture
from .state import State
from .thread_policy import threads_for
from .types import Decision, Mode, Sample, ScalingSpec, Step, Why

HOLDS: tuple[WorkerPolicy, ...] = (
    holds.growth_that_brings_nothing,
    holds.growth_that_has_not_lasted,
    holds.scale_in_after_a_gap,
    holds.scale_in_with_backlog,
    holds.scale_in_after_a_burst,
    holds.scale_in_of_long_tasks,
    holds.scale_in_too_early,
    limits.behaves,
    lambda context, wanted: limits.scheduled(context.spec, context.now, wanted),
    lambda context, wanted: limits.paused(context.spec, context.current, wanted),
    lambda context, wanted: limits.minimum(context.spec, wanted),
    lambda context, wanted: limits.maximum(context.spec, wanted),
    lambda context, wanted: limits.total_of_workers(context.spec, context.sample, wanted),
)


def decide(spec: ScalingSpec, state: State, sample: Sample, now: float) -> tuple[Decision, State]:
    """What the fleet should look like now, and what to remember. Pure: the same arguments give the same answer."""
    knowledge = look(spec, state, sample, now)
    state = remember_replicas(spec, state, sample, now)
    if knowledge.view is None:
        return decide_blind(spec, state, sample, knowledge.problems, now)
    view = knowledge.view
    state, progress = learn(spec, state, sample, view, now)
    context = picture(spec, state, sample, view, now)
    state = context.state
    if spec.mode is Mode.MANUAL:
        worker_steps: tuple[Step, ...] = manual(spec, sample)
    else:
        worker_steps = _follow(context, wanted(context), HOLDS)
    replicas = worker_steps[-1].after
    thread_steps = threads_for(context, replicas)
    decided = thread_steps[-1].after
    asked = stabilization.with_high(state.high_threads, now, thread_steps[0].after, threads.LOWER_WINDOW_SECONDS)
    state = replace(state, threads=decided, high_threads=asked)
    active = spec.mode is not Mode.MANUAL and not (spec.pause_in and spec.pause_out)
    decision = Decision(
        replicas=replicas,
        threads=decided,
        blind=(),
        active=active,
        limited=limited(context, worker_steps),
        learned=learned(state, capacity(spec, state.estimates, state.pressure)),
        leave_first=leave_first(sample),
        why=Why(
            at=now,
            inputs=inputs(context, progress, replicas, decided),
            steps=(*worker_steps, *thread_steps),
            binding=worker_steps[-1].limit,
            summary=why.summary(replicas, decided, worker_steps[-1].text),
        ),
    )
    return decision, state


def _follow(context: Context, first: Step, policies: Iterable[WorkerPolicy]) -> tuple[Step, ...]:
    steps = [first]
    for policy in policies:
        step = policy(context, steps[-1].after)
        if step is not None:
            steps.append(step)
    return tuple(steps)


def prefork_spec(
    spec: ScalingSpec,
    *,
    processes: int,
    replicas_min: int,
    replicas_max: int,
    cpu_limit_cores: float | None,
    memory_limit_bytes: float | None = None,
) -> ScalingSpec:
    """The prefork companion under the same law: its processes are its threads, and only the workers scale.

    What speaks of the Eventlet fleet alone does not apply: `greenThreads.total`, the schedules' `minReplicas`, and
    `manualReplicas` (the companion stays automatic). `cpu_limit_cores` is the container's, None without one: processes are
    not bound to one core as a hub is.
    """
    return replace(
        spec,
        mode=Mode.AUTO if spec.mode is Mode.MANUAL else spec.mode,
        threads_min=processes,
        threads_max=processes,
        threads_start=processes,
        threads_total=None,
        replicas_min=replicas_min,
        replicas_max=replicas_max,
        schedules=(),
        cpu_limit_cores=float(processes) if cpu_limit_cores is None else min(cpu_limit_cores, float(processes)),
        memory_limit_bytes=memory_limit_bytes,
    )
