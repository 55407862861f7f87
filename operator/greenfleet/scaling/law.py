"""The law: one sample in, one decision out, as a chain of small policies that each say what they did.

Order (docs/law.md): knowledge, learning, what the load needs, holds, the user's limits. Threads are decided with the same
picture, and the fleet's total comes last of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isfinite

from . import (
    arrivals,
    behavior,
    holds,
    learning,
    limits,
    pressure,
    scalability,
    stabilization,
    threads,
    warm,
    why,
    workers,
)
from .capacity import Capacity, capacity
from .context import Context, WorkerPolicy, threads_step, workers_step
from .knowledge import View, look
from .learning import Progress
from .state import Arrival, State
from .types import Decision, Learned, Limit, Mode, Problem, Sample, ScalingSpec, Step, Why

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
    state = _remember_replicas(spec, state, sample, now)
    if knowledge.view is None:
        return _blind(spec, state, sample, knowledge.problems, now)
    view = knowledge.view
    state, progress = _learn(spec, state, sample, view, now)
    context = _picture(spec, state, sample, view, now)
    state = context.state
    if spec.mode is Mode.MANUAL:
        worker_steps: tuple[Step, ...] = _manual(spec, sample)
    else:
        worker_steps = _follow(context, _wanted(context), HOLDS)
    replicas = worker_steps[-1].after
    thread_steps = _threads(context, replicas)
    decided = thread_steps[-1].after
    asked = stabilization.with_high(state.high_threads, now, thread_steps[0].after, threads.LOWER_WINDOW_SECONDS)
    state = replace(state, threads=decided, high_threads=asked)
    active = spec.mode is not Mode.MANUAL and not (spec.pause_in and spec.pause_out)
    decision = Decision(
        replicas=replicas,
        threads=decided,
        blind=(),
        active=active,
        limited=_limited(context, worker_steps),
        learned=_learned(state, capacity(spec, state.estimates, state.pressure)),
        leave_first=leave_first(sample),
        why=Why(
            at=now,
            inputs=_inputs(context, progress, replicas, decided),
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


# --- memory -----------------------------------------------------------------------------------------------------------


def _remember_replicas(spec: ScalingSpec, state: State, sample: Sample, now: float) -> State:
    delta = 0 if state.replicas is None else sample.replicas - state.replicas
    ceiling = pressure.recognise(state.pressure, spec, state.estimates)
    changes = behavior.remember(state.changes, delta, now, spec.scale_up, spec.scale_down)
    estimates, counted = learning.learn_startup(state, sample.pods)
    return replace(
        state, replicas=sample.replicas, changes=changes, estimates=estimates, counted_pods=counted, pressure=ceiling
    )


def _learn(spec: ScalingSpec, state: State, sample: Sample, view: View, now: float) -> tuple[State, Progress]:
    """The memory after this sample. A sample that was seen before teaches nothing."""
    sighted = state.sighted_since if state.sighted_since is not None else now
    idle_since = None
    if view.empty and view.scheduled == 0:
        idle_since = state.idle_since if state.idle_since is not None else now
    state = replace(state, sighted_since=sighted, idle_since=idle_since)
    if state.seen_at is not None and view.at <= state.seen_at:
        return state, Progress()
    progress, counters = learning.observe(state, view, sample.pods)
    if progress.started > 0:
        state = replace(state, idle_since=None)  # it looked idle at both scrapes, and was not in between
    state = _count_arrivals(spec, state, view, progress, now)
    worker = capacity(spec, state.estimates, state.pressure)
    throughput = learning.throughput_per_second(state.throughput, progress)
    return (
        replace(
            state,
            counters=counters,
            throughput=throughput,
            estimates=learning.learn(spec, state.estimates, view, progress),
            pressure=pressure.update(state.pressure, spec, view, progress, worker=worker, now=now),
            scalability=scalability.update(
                state.scalability, view, progress, throughput=throughput, worker=worker, now=now
            ),
        ),
        progress,
    )


def _count_arrivals(spec: ScalingSpec, state: State, view: View, progress: Progress, now: float) -> State:
    if state.seen_at is None:
        found = (Arrival(view.at, view.at, view.unstarted),) if view.unstarted > 0 else ()
        return replace(state, seen_at=view.at, unstarted=view.unstarted, arrivals=found, deficit_at=view.at)
    amount, deficit, deficit_at = arrivals.measure(
        state.seen_at,
        view.at,
        progress.started + view.unstarted - state.unstarted,
        state.deficit,
        state.deficit_at,
    )
    new = arrivals.spread(state.seen_at, view.at, amount, 2 * spec.scrape_interval_seconds)
    history = arrivals.remember(state.arrivals, new, view.unstarted, now, spec.max_wait_seconds)
    return replace(
        state, seen_at=view.at, unstarted=view.unstarted, arrivals=history, deficit=deficit, deficit_at=deficit_at
    )


# --- the picture ------------------------------------------------------------------------------------------------------


def _picture(spec: ScalingSpec, state: State, sample: Sample, view: View, now: float) -> Context:
    worker = capacity(spec, state.estimates, state.pressure)
    worker = replace(worker, safe_threads=_shared(spec, sample, worker.safe_threads))
    rate = arrivals.rate_per_second(state.arrivals, now, 3 * spec.scrape_interval_seconds)
    fleet = workers.existing(view, sample.replicas, worker, now)
    due = workers.for_deadline(spec, arrivals.waiting(state.arrivals, view.unstarted), fleet, worker)
    surge = arrivals.surge(state.arrivals, now, holds.YOUNG_BURST_SECONDS, rate)
    rate_workers = workers.for_rate(spec, rate, view.unstarted, sample.replicas, worker)
    need = min(max(rate_workers, due.workers if due is not None else 0), 10 * max(1, spec.replicas_max))
    proven = due.workers if due is not None and due.late else 0
    window = stabilization.down_window_seconds(spec, worker.startup_seconds)
    above_one = need if need > 1 else 0  # the last worker goes by the cooldown alone
    state = replace(
        state,
        proofs=warm.prove(state.proofs, min(proven, spec.replicas_max), now),
        high_needs=stabilization.with_high(state.high_needs, now, above_one, window),
        low_needs=stabilization.with_low(state.low_needs, now, need, stabilization.up_window_seconds(spec)),
    )
    return Context(
        spec=spec,
        sample=sample,
        view=view,
        state=state,
        now=now,
        worker=worker,
        rate=rate,
        surge=surge if surge > holds.BACKLOG_SECONDS * worker.rate(worker.safe_threads) else 0.0,
        due=due,
        rate_workers=rate_workers,
        need=need,
        down_window_seconds=window,
    )


def _shared(spec: ScalingSpec, sample: Sample, safe: int) -> int:
    """Green threads that a worker may really have: a fleet with a total cannot give c_safe to everyone."""
    if spec.threads_total is None:
        return safe
    alive = max(1, sample.replicas, sum(1 for pod in sample.pods if not pod.terminating))
    return max(1, min(safe, max(spec.threads_min, spec.threads_total // alive)))


# --- what the load needs ----------------------------------------------------------------------------------------------


def _wanted(context: Context) -> Step:
    """Workers for the rate, for the deadline, to keep warm, and the one that stays until the pool has been idle."""
    if context.current == 0 and not context.sample.pods:
        asleep = _asleep(context)
        if asleep is not None:
            return asleep
    step = _for_load(context)
    kept, until = warm.wanted(context.state.proofs, context.now)
    if kept > step.after:
        text = (
            f"{why.count(kept, 'worker')} stay warm: twice of late a burst could not be started within "
            f"{why.seconds(context.spec.max_wait_seconds)} because a pod takes {why.seconds(context.worker.startup_seconds)}"
        )
        return workers_step(Limit.WARM, context.current, kept, text, until)
    return step


def _asleep(context: Context) -> Step | None:
    """At zero workers: the reason to stay there, or None when there is something to do."""
    kept, _ = warm.wanted(context.state.proofs, context.now)
    if context.view.ready > context.spec.activation or context.view.unacked > 0 or kept > 0:
        return None
    if context.view.ready > 0:
        text = f"{why.waits(context.view.ready)}, not more than the activation of {context.spec.activation}"
        return workers_step(Limit.ACTIVATION, context.current, 0, text)
    return workers_step(Limit.IDLE, context.current, 0, "nothing waits, nothing runs")


def _for_load(context: Context) -> Step:
    due, spec = context.due, context.spec
    per_worker = context.worker.rate(context.worker.safe_threads)
    if due is not None and due.workers > max(context.rate_workers, 1):
        able = f"{why.count(due.workers, 'worker')} can start them within {why.seconds(due.within_seconds)}"
        promise = (
            f"the {why.seconds(spec.max_wait_seconds)} of maxWait are out of reach for the oldest"
            if due.late
            else f"as maxWait of {why.seconds(spec.max_wait_seconds)} asks"
        )
        text = f"{why.waits(due.messages)}; one worker does {why.rate(per_worker)}; {able}, {promise}"
        return workers_step(Limit.DEADLINE, context.current, context.need, text)
    if context.need > 1:
        text = f"{why.rate(context.rate)} arrive; one worker does {why.rate(per_worker)}"
        return workers_step(Limit.RATE, context.current, context.need, text)
    return _last_worker(context)


def _last_worker(context: Context) -> Step:
    """One worker until the pool has been idle for the cooldown."""
    idle_since, view = context.state.idle_since, context.view
    if idle_since is not None:
        until = idle_since + context.spec.cooldown_seconds
        if context.now < until:
            text = f"nothing waits and nothing runs; one worker stays for the cooldown of {why.seconds(context.spec.cooldown_seconds)}"
            return workers_step(Limit.COOLDOWN, context.current, 1, text, until)
        text = f"nothing has waited or run for {why.seconds(context.spec.cooldown_seconds)}"
        return workers_step(Limit.IDLE, context.current, 0, text)
    if view.unstarted == 0 and view.busy == 0:
        if view.scheduled > 0:
            text = f"{why.count(view.scheduled, 'task')} held for an ETA keep one worker"
        else:
            text = f"{why.count(view.unacked, 'unacked message')} need one worker to restore them"
        return workers_step(Limit.COOLDOWN, context.current, 1, text)
    per_worker = context.worker.rate(context.worker.safe_threads)
    text = f"{why.rate(context.rate)} arrive and {why.waits(view.unstarted)}; one worker does {why.rate(per_worker)}, so its green threads are enough"
    return workers_step(Limit.RATE, context.current, 1, text)


def _manual(spec: ScalingSpec, sample: Sample) -> tuple[Step, ...]:
    """The user's number, within the bounds that are not about load. A human may ask for fewer than `replicas.min`."""
    steps = [
        workers_step(Limit.MANUAL, sample.replicas, spec.manual_replicas, "mode is manual: spec.manualReplicas decides")
    ]
    for step in (limits.maximum(spec, steps[-1].after),):
        if step is not None:
            steps.append(step)
    step = limits.total_of_workers(spec, sample, steps[-1].after)
    return (*steps, step) if step is not None else tuple(steps)


# --- green threads ----------------------------------------------------------------------------------------------------


def _threads(context: Context, replicas: int) -> tuple[Step, ...]:
    """Straight to c_safe while anything waits, else for the rate; up at once, down slowly; the total last."""
    spec, worker, view = context.spec, context.worker, context.view
    before = context.state.threads if context.state.threads is not None else _threads_now(spec, context.sample)
    safe = worker.safe_threads
    if replicas == 0 and not context.sample.pods:
        start = max(spec.threads_min, min(safe, spec.threads_start))
        steps = [threads_step(Limit.IDLE, before, start, "no worker runs; a new one starts with this many")]
    elif threads.anything_waits(view, context.rate) or (context.sample.replicas == 0 and replicas > 0):
        text = (
            f"{why.waits(view.unstarted)} and {why.count(view.busy, 'task')} run; "
            f"a worker bears {why.count(safe, 'green thread')}{_because(context)}"
        )
        steps = [threads_step(Limit.SAFE_THREADS, before, safe, text)]
    else:
        steady = threads.steady_need(context.rate, worker, max(1, min(replicas, len(view.serving) or replicas)))
        wanted = max(spec.threads_min, min(safe, steady))
        text = f"{why.rate(context.rate)} of {why.seconds(worker.runtime_seconds)} each need so many green threads per worker, with room for chance"
        steps = [threads_step(Limit.RATE, before, wanted, text)]
    steps.extend(_thread_holds(context, before, steps[-1].after))
    cap = limits.total_of_threads(spec, context.sample, replicas, steps[-1].after)
    return (*steps, cap) if cap is not None else tuple(steps)


def _because(context: Context) -> str:
    cause = context.state.pressure.cause
    return f" ({cause})" if context.state.pressure.cap is not None and cause else ""


def _thread_holds(context: Context, before: int, wanted: int) -> list[Step]:
    experiment = context.state.scalability
    if context.view.workers and (experiment.frozen_until is not None or experiment.probing):
        share = 1.0 if experiment.frozen_until is not None else scalability.PROBE
        most_now = max(context.spec.threads_min, int(share * experiment.frozen_threads))
        if wanted > most_now:
            text = "more green threads brought no more throughput: something downstream is saturated"
            return [threads_step(Limit.SATURATED_DOWNSTREAM, wanted, most_now, text, experiment.frozen_until)]
    if wanted < before and context.in_first_window:
        held = max(wanted, min(before, context.worker.safe_threads))
        text = "knowledge has been complete for too short a time to take green threads away"
        return [threads_step(Limit.FIRST_WINDOW, wanted, held, text)]
    most = stabilization.first_within(context.state.high_threads, context.now, threads.LOWER_WINDOW_SECONDS)
    if wanted < before and most is not None and most.value > wanted:
        held = min(before, most.value, context.worker.safe_threads)
        if held > wanted:
            text = f"{why.count(held, 'green thread')} were needed within the last {why.seconds(threads.LOWER_WINDOW_SECONDS)}"
            return [threads_step(Limit.STABILIZATION, wanted, held, text, most.at + threads.LOWER_WINDOW_SECONDS)]
    return []


def _threads_now(spec: ScalingSpec, sample: Sample) -> int:
    """What the pods were told; the start value where nobody has said anything."""
    told = [pod.threads for pod in sample.pods if pod.threads is not None and not pod.terminating]
    return max(spec.threads_min, min(spec.threads_max, max(told, default=spec.threads_start)))


# --- blind ------------------------------------------------------------------------------------------------------------


def _blind(
    spec: ScalingSpec, state: State, sample: Sample, problems: tuple[Problem, ...], now: float
) -> tuple[Decision, State]:
    """Hold, or raise to the floor. Nothing scales in on less than complete knowledge."""
    state = replace(state, sighted_since=None, idle_since=None)
    steps = _manual(spec, sample) if spec.mode is Mode.MANUAL else _hold(spec, sample, problems, now)
    replicas = steps[-1].after
    told = state.threads if state.threads is not None else _threads_now(spec, sample)
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
        learned=_learned(state, worker),
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


# --- what is reported -------------------------------------------------------------------------------------------------


def leave_first(sample: Sample) -> tuple[str, ...]:
    """Pods in the order in which a scale-in should take them: never Ready, then the least busy, then the youngest."""
    held = {
        worker.pod: worker.threads_busy + worker.reserved
        for worker in sample.workers
        if isfinite(worker.threads_busy) and isfinite(worker.reserved)
    }

    def regret(name: str, ready: bool, created_at: float) -> tuple[bool, float, float, str]:
        return ready, held.get(name, float("inf") if ready else 0.0), -created_at, name

    staying = [pod for pod in sample.pods if not pod.terminating]
    staying.sort(key=lambda pod: regret(pod.name, pod.ready_since is not None, pod.created_at))
    return tuple(pod.name for pod in staying)


def _limited(context: Context, steps: tuple[Step, ...]) -> Limit:
    """What keeps the pool smaller than the load asks for."""
    if steps[-1].limit is Limit.ACTIVATION:
        return Limit.ACTIVATION
    if steps[-1].after >= max(context.need, steps[0].after) or context.spec.mode is Mode.MANUAL:
        return Limit.NONE
    smaller = [step.limit for step in steps if step.after < step.before and step.limit in why.SMALLER]
    return smaller[-1] if smaller else Limit.NONE


def _learned(state: State, worker: Capacity) -> Learned:
    known = state.estimates.runtime_seconds is not None
    return Learned(
        runtime_seconds=state.estimates.runtime_seconds,
        cpu_per_task_seconds=state.estimates.cpu_per_task_seconds,
        safe_threads=worker.safe_threads if known else None,
        startup_seconds=state.estimates.startup_seconds,
    )


def _inputs(context: Context, progress: Progress, replicas: int, decided: int) -> tuple[tuple[str, float], ...]:
    view, worker = context.view, context.worker
    return (
        ("ready", view.ready),
        ("reserved", view.reserved),
        ("backlog", view.unstarted),
        ("busy", view.busy),
        ("unacked", view.unacked),
        ("scheduled", view.scheduled),
        ("arrival_rate", context.rate),
        ("throughput", context.state.throughput),
        ("runtime_seconds", worker.runtime_seconds),
        ("cpu_per_task_seconds", worker.cpu_per_task_seconds),
        ("cores", worker.cores),
        ("efficiency", worker.efficiency),
        ("safe_threads", float(worker.safe_threads)),
        ("worker_rate", worker.rate(worker.safe_threads)),
        ("startup_seconds", worker.startup_seconds),
        ("hub_utilisation", progress.hub_utilisation),
        ("hub_lag_seconds", progress.hub_lag_seconds),
        ("ready_workers", float(len(view.serving))),
        ("starting_workers", float(len(view.coming))),
        ("leaving_workers", float(len(view.leaving))),
        ("replicas", float(context.current)),
        ("workers_for_rate", float(context.rate_workers)),
        ("workers_for_deadline", float(context.due.workers if context.due is not None else 0)),
    )


def significant_change(old: Learned, new: Learned) -> bool:
    """Whether `status.learned` is worth a write: something became known, or moved by more than 20 %."""
    pairs = (
        (old.runtime_seconds, new.runtime_seconds),
        (old.cpu_per_task_seconds, new.cpu_per_task_seconds),
        (old.safe_threads, new.safe_threads),
        (old.startup_seconds, new.startup_seconds),
    )
    return any(_moved(one, two) for one, two in pairs)


def _moved(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return new is not None and old is None
    return abs(new - old) > 0.2 * abs(old)


def prefork_spec(
    spec: ScalingSpec, *, processes: int, replicas_min: int, replicas_max: int, cpu_limit_cores: float
) -> ScalingSpec:
    """The prefork companion under the same law: its processes are its threads, and only the workers scale.

    `greenThreads.total` counts green threads, so it does not apply; `cpu_limit_cores` is the container's, for processes are
    not bound to one core as a hub is.
    """
    return replace(
        spec,
        threads_min=processes,
        threads_max=processes,
        threads_start=processes,
        threads_total=None,
        replicas_min=replicas_min,
        replicas_max=replicas_max,
        cpu_limit_cores=min(cpu_limit_cores, float(processes)),
    )
