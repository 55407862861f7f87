"""What the workers' counters teach: run time, CPU per task, what the node grants, how long a pod takes to start.

Every estimate is a ratio of sums over the same interval, so that a busy second weighs more than an idle one, and a counter
that starts again from zero (a restarted container) is a new count, never a negative one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .capacity import cores_for_tasks
from .model import Pod, ScalingSpec, WorkerSample
from .state import Counters, Estimates, State
from .tuning import DEFAULT, Tuning
from .validation import Observation

HALF_LIFE_SECONDS = 15.0
THROUGHPUT_HALF_LIFE_SECONDS = 4.0
BELIEVED_AFTER_SECONDS = 2.0
"""Of a worker's whole CPU, as far as it is remembered (so a tenth of the CPU limit, over some time): tasks that use less have no use for
an estimate, and what an idle worker burns, 0.01 cores, is too large a part of it. A worker that has just come fetches hundreds of
messages before the first dozen of tasks has ended, and they would validate three times as dear. A count of tasks would not do: heavy ones
would never get there."""
IDLE_CORES_MOST = 0.02
"""What an idle worker may burn and count as housekeeping, or a tenth of its limit: a background job of the user's is none."""
LONELY, CROWDED = 0.3, 0.75
"""Of the hub's time: a hub that is less busy than the first serves each message by itself, one that is busier than the second all that
have come meanwhile at once. The CPU does not tell: many wake-ups use up a small quota as well as many tasks (measured: docs/law.md)."""
LONE_CPU_SECONDS = 0.0015
"""What such a message costs more than one of many that are fetched together: a wake-up, a round trip and a write of its own (measured:
docs/law.md, 2)."""
LONE_MOST = 0.4
"""Of what was measured: on a faster machine it is less."""
_LONGEST_BELIEVABLE_STARTUP_SECONDS = 900.0
_BLOCKED_FRACTION = 0.05
"""A hub that a task blocks for more of the time than this says nothing about CPU or about too many green threads."""


@dataclass(frozen=True, slots=True)
class CounterDelta:
    """What all workers of a pool did between two scrapes."""

    seconds: float = 0.0
    """Between the scrapes of the queues."""
    worker_seconds: float = 0.0
    """Summed over the workers that were scraped twice and are not leaving."""
    started: float = 0.0
    finished: float = 0.0
    runtime_sum_seconds: float = 0.0
    runtime_count: float = 0.0
    cpu_seconds: float = 0.0
    """Without a process's life before its pod was Ready: importing the user's code costs a second or so, and is no task's CPU.
    (On a tenth of a core that is spread over several scrapes.)"""
    cpu_tasks: float = 0.0
    """Tasks that `cpu_seconds` was spent on: the mean of started and finished ones."""
    hub_busy_seconds: float = 0.0
    hub_blocked_seconds: float = 0.0
    hub_lag_sum_seconds: float = 0.0
    hub_lag_count: float = 0.0
    serving_cpu_seconds: float = 0.0
    """Of the workers that `worker_seconds` counts."""
    cpu_worker_seconds: float = 0.0
    """Of `worker_seconds`, those of workers that were Ready throughout; 0: nothing is known about the cores."""
    serving_started: float = 0.0
    """Started by workers in their `cpu_worker_seconds`."""
    unstarted_before: float = 0.0
    """Messages that waited in the broker or prefetched at the first of the two scrapes."""

    @property
    def cores_per_worker(self) -> float:
        return self.serving_cpu_seconds / self.cpu_worker_seconds if self.cpu_worker_seconds > 0 else 0.0

    @property
    def hub_utilisation(self) -> float:
        return self.hub_busy_seconds / self.worker_seconds if self.worker_seconds > 0 else 0.0

    def utilisation(self, cores: float) -> float:
        """Of a core of so many `cores` or of the hub's time, whichever is busier."""
        return max(self.cores_per_worker / cores, self.hub_utilisation)

    @property
    def hub_lag_seconds(self) -> float:
        return self.hub_lag_sum_seconds / self.hub_lag_count if self.hub_lag_count > 0 else 0.0

    @property
    def blocked(self) -> bool:
        """Whether a blocking task, not load, is what the hubs suffer from."""
        return self.worker_seconds > 0 and self.hub_blocked_seconds > _BLOCKED_FRACTION * self.worker_seconds


def counters_of(worker: WorkerSample) -> Counters:
    return Counters(
        pod=worker.pod,
        at=worker.at,
        started=worker.started,
        finished=worker.finished,
        runtime_sum_seconds=worker.runtime_sum_seconds,
        runtime_count=worker.runtime_count,
        cpu_seconds=worker.cpu_seconds,
        hub_busy_seconds=worker.hub_busy_seconds,
        hub_blocked_seconds=worker.hub_blocked_seconds,
        hub_lag_sum_seconds=worker.hub_lag_sum_seconds,
        hub_lag_count=worker.hub_lag_count,
    )


def observe(state: State, view: Observation, pods: Iterable[Pod]) -> tuple[CounterDelta, tuple[Counters, ...]]:
    """The progress since the last sample that was used, and the counters to compare with next time.

    The last counters of a pod without a sample are kept until the pod is gone.
    """
    before = {counters.pod: counters for counters in state.counters}
    leaving = {pod.name for pod in view.leaving}
    found = {pod.name: pod for pod in pods}
    seconds = max(0.0, view.at - state.seen_at) if state.seen_at is not None else 0.0
    progress = CounterDelta(seconds=seconds, unstarted_before=state.unstarted)
    after = {name: counters for name, counters in before.items() if name in found}
    for worker in view.workers:
        now = counters_of(worker)
        base = before.get(worker.pod)
        after[worker.pod] = now
        pod = found[worker.pod]
        starting = base is None or pod.ready_since is None or base.at < pod.ready_since
        if base is None:
            if state.seen_at is None or pod.created_at < state.since:
                continue  # it was running before we began to look: how fast it got there is unknown
            base = _zero(worker.pod, max(pod.created_at, state.seen_at))
        if now.at > base.at:
            progress = _add(progress, base, now, serving=worker.pod not in leaving, starting=starting)
    return progress, tuple(after.values())


def _zero(pod: str, at: float) -> Counters:
    return Counters(pod, at, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _add(progress: CounterDelta, base: Counters, now: Counters, *, serving: bool, starting: bool) -> CounterDelta:
    if now.started < base.started or now.cpu_seconds < base.cpu_seconds:
        base = _zero(base.pod, base.at)  # the container was restarted: it counts from zero
        starting = True
    started = now.started - base.started
    finished = max(0.0, now.finished - base.finished)
    cpu = 0.0 if starting else now.cpu_seconds - base.cpu_seconds
    seconds = now.at - base.at if serving else 0.0
    return replace(
        progress,
        worker_seconds=progress.worker_seconds + seconds,
        started=progress.started + started,
        finished=progress.finished + finished,
        runtime_sum_seconds=progress.runtime_sum_seconds + max(0.0, now.runtime_sum_seconds - base.runtime_sum_seconds),
        runtime_count=progress.runtime_count + max(0.0, now.runtime_count - base.runtime_count),
        cpu_seconds=progress.cpu_seconds + cpu,
        cpu_tasks=progress.cpu_tasks + (0.0 if starting else (started + finished) / 2),
        hub_busy_seconds=progress.hub_busy_seconds
        + (max(0.0, now.hub_busy_seconds - base.hub_busy_seconds) if serving else 0.0),
        hub_blocked_seconds=progress.hub_blocked_seconds
        + (max(0.0, now.hub_blocked_seconds - base.hub_blocked_seconds) if serving else 0.0),
        hub_lag_sum_seconds=progress.hub_lag_sum_seconds + max(0.0, now.hub_lag_sum_seconds - base.hub_lag_sum_seconds),
        hub_lag_count=progress.hub_lag_count + max(0.0, now.hub_lag_count - base.hub_lag_count),
        serving_started=progress.serving_started + (started if serving and not starting else 0.0),
        serving_cpu_seconds=progress.serving_cpu_seconds + (cpu if serving else 0.0),
        cpu_worker_seconds=progress.cpu_worker_seconds + (0.0 if starting else seconds),
    )


def learn(
    spec: ScalingSpec, estimates: Estimates, view: Observation, progress: CounterDelta, tuning: Tuning = DEFAULT
) -> Estimates:
    """The estimates after one more interval of progress."""
    if progress.seconds <= 0:
        return estimates
    keep = 0.5 ** (progress.seconds / HALF_LIFE_SECONDS)
    estimates = _learn_runtime(estimates, progress, keep)
    estimates = _learn_cpu(spec, estimates, view, progress, keep, tuning=tuning)
    if tuning.uses("granted-cores"):
        estimates = _learn_granted(spec, estimates, view, progress)
    if tuning.uses("efficiency"):
        estimates = _learn_efficiency(spec, estimates, view, progress)
    return estimates


def _learn_runtime(estimates: Estimates, progress: CounterDelta, keep: float) -> Estimates:
    if progress.runtime_count <= 0:
        return estimates
    runtime = estimates.runtime.add(progress.runtime_sum_seconds, progress.runtime_count, keep)
    if runtime.weight < 1 or runtime.total <= 0:
        return replace(estimates, runtime=runtime)
    return replace(estimates, runtime=runtime, runtime_seconds=runtime.mean)


def _learn_cpu(
    spec: ScalingSpec, estimates: Estimates, view: Observation, progress: CounterDelta, keep: float, *, tuning: Tuning
) -> Estimates:
    """CPU over the mean of started and finished tasks, for a task burns some before its I/O and some after it.

    Over started ones alone it looks cheap while a burst is taken up and dear while it runs out, over finished ones the
    other way round, and a task that hangs would be priceless.
    """
    if progress.cpu_worker_seconds <= 0:
        return estimates
    if progress.started == 0:
        if view.busy > 0 or progress.finished > 0 or not tuning.uses("idle-cores"):
            return estimates
        idle = 0.8 * estimates.idle_cores + 0.2 * progress.cores_per_worker
        return replace(estimates, idle_cores=min(idle, max(IDLE_CORES_MOST, 0.1 * spec.cpu_limit_cores)))
    if progress.cpu_tasks <= 0:
        return estimates
    used = max(0.0, progress.cpu_seconds - estimates.idle_cores * progress.cpu_worker_seconds)
    lonely = _lonely(progress) if tuning.uses("unbatched-cost") else 0.0
    alone = lonely * min(LONE_CPU_SECONDS * progress.cpu_tasks, LONE_MOST * used)
    estimates = replace(
        estimates,
        cpu=estimates.cpu.add(used, progress.cpu_tasks, keep),
        cpu_alone_seconds=estimates.cpu_alone_seconds * keep + alone,
        cpu_crowded=estimates.cpu_crowded.add(used, progress.cpu_tasks, keep) if lonely == 0 else estimates.cpu_crowded,
    )
    if estimates.cpu.total < BELIEVED_AFTER_SECONDS * spec.cpu_limit_cores:
        return estimates
    return replace(estimates, cpu_per_task_seconds=_cpu_of_many(estimates))


def _lonely(progress: CounterDelta) -> float:
    """The share of the messages that came alone: from 1 down to 0, which is a crowded hub."""
    if progress.blocked:
        return 1.0
    return max(0.0, min(1.0, (CROWDED - progress.hub_utilisation) / (CROWDED - LONELY)))


def _cpu_of_many(estimates: Estimates) -> float:
    """What a task costs where there are many, which is what a plan is about: as it was when there were many, unless what is seen now
    says that the tasks have become lighter, or heavier than coming alone explains.
    """
    cpu, crowded = estimates.cpu, estimates.cpu_crowded
    least, most = (cpu.total - estimates.cpu_alone_seconds) / cpu.weight, cpu.mean
    return least if crowded.weight <= 0 else min(most, max(least, crowded.mean))


def _learn_granted(spec: ScalingSpec, estimates: Estimates, view: Observation, progress: CounterDelta) -> Estimates:
    """A hub that always has something to do shows what the node really gives it, which may be less than its limit."""
    limit = spec.cpu_limit_cores
    granted = estimates.granted_cores
    short = (
        progress.hub_utilisation >= 0.95
        and progress.cpu_worker_seconds > 0
        and progress.cores_per_worker < 0.9 * limit
        and view.unstarted > 0
        and not progress.blocked
    )
    if short:
        seen = max(0.25 * limit, progress.cores_per_worker)
        return replace(estimates, granted_cores=0.7 * (granted or limit) + 0.3 * seen)
    if granted is None:
        return estimates
    granted += (limit - granted) * (1 - 0.5 ** (progress.seconds / 60.0))
    return replace(estimates, granted_cores=None if granted >= 0.95 * limit else granted)


def _learn_efficiency(spec: ScalingSpec, estimates: Estimates, view: Observation, progress: CounterDelta) -> Estimates:
    """Saturated workers show what the model leaves out: fetching, uneven distribution, anything else. Those to whom a burst came
    between the two scrapes, or who came themselves, were not saturated all the time.
    """
    runtime, cpu = estimates.runtime_seconds, estimates.cpu_per_task_seconds
    serving = {pod.name for pod in view.serving}
    samples = [worker for worker in view.workers if worker.pod in serving]
    limit = sum(worker.threads_limit for worker in samples)
    if runtime is None or cpu is None or not serving or limit <= 0 or progress.cpu_worker_seconds <= 0:
        return estimates
    if any(worker.threads_busy > worker.threads_limit for worker in samples):
        return estimates  # their limit was lowered; they start nothing until enough tasks have ended
    cores = cores_for_tasks(estimates.granted_cores or spec.cpu_limit_cores, estimates.idle_cores)
    promised = min(limit / len(serving) / runtime, cores / cpu if cpu > 0 else float("inf"))
    per_worker = progress.serving_started / progress.cpu_worker_seconds
    waited = min(view.ready, progress.unstarted_before)
    saturated = waited > 2 * promised * len(serving) and runtime < 5.0 and not progress.blocked
    if saturated:
        weight = 1 - 0.5 ** (progress.seconds / 8.0)
        seen = min(1.0, max(0.3, per_worker / promised))
        return replace(estimates, efficiency=estimates.efficiency + weight * (seen - estimates.efficiency))
    recovered = estimates.efficiency + (1 - estimates.efficiency) * (1 - 0.5 ** (progress.seconds / 120.0))
    return replace(estimates, efficiency=recovered)


def throughput_per_second(before: float, progress: CounterDelta) -> float:
    """Finished tasks per second, over the last few scrapes."""
    if progress.seconds <= 0:
        return before
    keep: float = 0.5 ** (progress.seconds / THROUGHPUT_HALF_LIFE_SECONDS)
    return before * keep + (1 - keep) * progress.finished / progress.seconds


def learn_startup(state: State, pods: tuple[Pod, ...]) -> tuple[Estimates, tuple[str, ...]]:
    """Creation to Ready of every pod whose first Ready we could see; slow ones count at once, fast ones by and by."""
    estimates, counted = state.estimates, set(state.counted_pods)
    for pod in pods:
        if pod.ready_since is None or pod.name in counted:
            continue
        counted.add(pod.name)
        took = pod.ready_since - pod.created_at
        witnessed = pod.created_at >= state.since or estimates.startup_seconds is None
        if not witnessed or not 0 <= took <= _LONGEST_BELIEVABLE_STARTUP_SECONDS:
            continue
        known = estimates.startup_seconds
        weight = 0.5 if known is None or took > known else 0.3
        estimates = replace(estimates, startup_seconds=took if known is None else known + weight * (took - known))
    return estimates, tuple(pod.name for pod in pods if pod.name in counted)
