"""One sample in, one decision out: validate, estimate, recommend, constrain.

Each step is a package of its own; every number is in `tuning.py`. docs/scaling.md tells the same in plain words.
"""

from __future__ import annotations

from dataclasses import replace

from . import explain
from .constraints import CONSTRAINTS, stabilization
from .constraints.hpa import remember
from .context import DecisionContext
from .metrics_missing import decide_without_metrics
from .model import Adjustment, Decision, Mode, Sample, ScalingSpec, Why
from .recommendation import context_of, manual, recommend
from .recommendation.green_threads import threads_for
from .state import State
from .tuning import DEFAULT, Tuning
from .validation import validate


def decide(
    spec: ScalingSpec, state: State, sample: Sample, now: float, tuning: Tuning = DEFAULT
) -> tuple[Decision, State]:
    """What the fleet should look like now, and what to remember. Pure: the same arguments give the same answer."""
    state = _meet(spec, state, sample, now, tuning)
    observation, issues = validate(spec, state.estimates.workers, sample, now, tuning)
    if observation is None:
        return decide_without_metrics(spec, state, sample, issues, now, tuning)
    estimates, delta = state.estimates.update(spec, sample, observation, now, tuning)
    idle = observation.empty and observation.scheduled == 0 and delta.started == 0
    state = replace(
        state,
        estimates=estimates,
        complete_since=now if state.complete_since is None else state.complete_since,
        idle_since=(now if state.idle_since is None else state.idle_since) if idle else None,
    )
    context = context_of(spec, state, sample, observation, now, tuning)
    state = context.state
    workers = manual(spec, sample) if spec.mode is Mode.MANUAL else _constrain(context, recommend(context))
    threads = threads_for(context, workers[-1].after)
    state = replace(
        state,
        threads=threads[-1].after,
        high_threads=stabilization.with_high(state.high_threads, now, threads[0].after, tuning.thread_window_seconds),
    )
    decision = Decision(
        replicas=workers[-1].after,
        threads=threads[-1].after,
        metrics_issues=(),
        active=spec.mode is not Mode.MANUAL and not (spec.pause_in and spec.pause_out),
        limited=explain.limited(context, workers),
        learned=estimates.learned(spec, tuning),
        deletion_order=explain.deletion_order(sample),
        why=Why(
            at=now,
            inputs=explain.inputs(context, delta),
            adjustments=(*workers, *threads),
            binding=workers[-1].reason,
            summary=explain.summary(workers[-1].after, threads[-1].after, workers[-1].text),
        ),
    )
    return decision, state


def _meet(spec: ScalingSpec, state: State, sample: Sample, now: float, tuning: Tuning) -> State:
    """What the API server tells, whatever Prometheus says."""
    delta = 0 if state.replicas is None else sample.replicas - state.replicas
    changes = remember(state.changes, delta, now, spec.scale_up, spec.scale_down)
    estimates = state.estimates.meet(spec, sample, tuning)
    if (sample.replicas, changes) == (state.replicas, state.changes) and estimates is state.estimates:
        return state  # a thousand idle pools every two seconds: what does not change is not copied
    return replace(state, replicas=sample.replicas, changes=changes, estimates=estimates)


def _constrain(context: DecisionContext, first: Adjustment) -> tuple[Adjustment, ...]:
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
    """The prefork companion: its processes are its green threads, and only the workers scale.

    What speaks of the Eventlet fleet alone does not apply: `greenThreads.total`, the schedules' `minReplicas`, and
    `manualReplicas` (the companion stays automatic). `cpu_limit_cores` is the container's, None without one.
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
