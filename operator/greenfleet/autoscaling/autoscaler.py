"""The autoscaler: one sample in, one decision out, as a chain of small policies that each say what they did.

Order (docs/law.md): validation, learning, what the load needs, holds, the user's limits. Threads are decided with the same
context, and the fleet's total comes last of all.
"""

from __future__ import annotations

from dataclasses import replace

from . import constraints, explain, limits, stabilization, threads
from .capacity import capacity
from .context import Constraint, DecisionContext
from .decision_context import decision_context
from .estimators import remember_replicas, update
from .metrics_missing import decide_without_metrics
from .model import Adjustment, Decision, Mode, Sample, ScalingSpec, Why
from .outcome import deletion_order, inputs, learned, limited
from .recommendation import manual, recommend
from .state import State
from .thread_policy import threads_for
from .tuning import DEFAULT, Tuning
from .validation import validate

CONSTRAINTS: tuple[tuple[str, Constraint], ...] = (
    ("full-downstream", constraints.growth_that_brings_nothing),
    ("", constraints.growth_that_has_not_lasted),
    ("first-window", constraints.scale_in_after_a_gap),
    ("backlog", constraints.scale_in_with_backlog),
    ("young-burst", constraints.scale_in_after_a_burst),
    ("long-tasks", constraints.scale_in_of_long_tasks),
    ("stabilization", constraints.scale_in_too_early),
    ("", limits.behaves),
    ("", lambda context, wanted: limits.scheduled(context.spec, context.now, wanted)),
    ("", lambda context, wanted: limits.paused(context.spec, context.current, wanted)),
    ("", lambda context, wanted: limits.minimum(context.spec, wanted)),
    ("", lambda context, wanted: limits.maximum(context.spec, wanted)),
    ("", lambda context, wanted: limits.total_of_workers(context.spec, context.sample, wanted)),
)
"""In order, each with its name in `PARTS`; the user's own limits have none, for they cannot be switched off."""


def decide(
    spec: ScalingSpec, state: State, sample: Sample, now: float, tuning: Tuning = DEFAULT
) -> tuple[Decision, State]:
    """What the fleet should look like now, and what to remember. Pure: the same arguments give the same answer."""
    validated = validate(spec, state, sample, now)
    state = remember_replicas(spec, state, sample, now, tuning=tuning)
    if validated.observation is None:
        return decide_without_metrics(spec, state, sample, validated.problems, now, tuning=tuning)
    view = validated.observation
    state, progress = update(spec, state, sample, view, now, tuning=tuning)
    context = decision_context(spec, state, sample, view, now, tuning=tuning)
    state = context.state
    if spec.mode is Mode.MANUAL:
        worker_adjustments: tuple[Adjustment, ...] = manual(spec, sample)
    else:
        worker_adjustments = _follow(context, recommend(context))
    replicas = worker_adjustments[-1].after
    thread_adjustments = threads_for(context, replicas)
    decided = thread_adjustments[-1].after
    asked = stabilization.with_high(state.high_threads, now, thread_adjustments[0].after, threads.LOWER_WINDOW_SECONDS)
    state = replace(state, threads=decided, high_threads=asked)
    active = spec.mode is not Mode.MANUAL and not (spec.pause_in and spec.pause_out)
    decision = Decision(
        replicas=replicas,
        threads=decided,
        metrics_issues=(),
        active=active,
        limited=limited(context, worker_adjustments),
        learned=learned(state, capacity(spec, state.estimates, state.pressure, tuning)),
        deletion_order=deletion_order(sample),
        why=Why(
            at=now,
            inputs=inputs(context, progress, replicas, decided),
            adjustments=(*worker_adjustments, *thread_adjustments),
            binding=worker_adjustments[-1].reason,
            summary=explain.summary(replicas, decided, worker_adjustments[-1].text),
        ),
    )
    return decision, state


def _follow(context: DecisionContext, first: Adjustment) -> tuple[Adjustment, ...]:
    adjustments = [first]
    for name, constraint in CONSTRAINTS:
        adjustment = constraint(context, adjustments[-1].after) if context.tuning.uses(name) else None
        if adjustment is not None:
            adjustments.append(adjustment)
    return tuple(adjustments)


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
