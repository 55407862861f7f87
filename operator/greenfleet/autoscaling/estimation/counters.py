"""What all workers of a pool did between two scrapes: differences of their counters, summed.

A counter that starts again from zero (a restarted container) is a new count, never a negative one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..model import Pod, WorkerSample
from ..tuning import Tuning
from ..validation import Observation


@dataclass(frozen=True, slots=True)
class CounterDelta:
    """Sums over the workers. The first block has the names of the counters in `WorkerSample`."""

    started: float = 0.0
    finished: float = 0.0
    runtime_sum_seconds: float = 0.0
    runtime_count: float = 0.0
    cpu_seconds: float = 0.0
    """Without a process's life before its pod was Ready: importing the user's code is no task's CPU."""
    hub_busy_seconds: float = 0.0
    hub_blocked_seconds: float = 0.0
    hub_lag_sum_seconds: float = 0.0
    hub_lag_count: float = 0.0

    seconds: float = 0.0
    """Between the scrapes of the queues."""
    worker_seconds: float = 0.0
    """Summed over the workers that were scraped twice and are not leaving."""
    cpu_tasks: float = 0.0
    """Tasks that `cpu_seconds` was spent on: the mean of started and finished ones."""
    serving_cpu_seconds: float = 0.0
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

    @property
    def hub_lag_seconds(self) -> float:
        return self.hub_lag_sum_seconds / self.hub_lag_count if self.hub_lag_count > 0 else 0.0

    def utilisation(self, cores: float) -> float:
        """Of a core of so many `cores` or of the hub's time, whichever is busier."""
        return max(self.cores_per_worker / cores, self.hub_utilisation)

    def blocked(self, tuning: Tuning) -> bool:
        """Whether a blocking task, not load, is what the hubs suffer from."""
        return self.worker_seconds > 0 and self.hub_blocked_seconds > tuning.blocked * self.worker_seconds


_COUNTERS = {field.name for field in fields(CounterDelta)} & {field.name for field in fields(WorkerSample)}


def subtract(
    last: tuple[WorkerSample, ...], observation: Observation, pods: tuple[Pod, ...], since: float, seen_at: float | None
) -> tuple[CounterDelta, tuple[WorkerSample, ...]]:
    """What was done since the last samples, and the samples to compare with next time.

    The last sample of a pod without a new one is kept until the pod is gone. `since` is when the memory began.
    """
    found = {pod.name: pod for pod in pods}
    after = {sample.pod: sample for sample in last if sample.pod in found}
    delta = CounterDelta(seconds=max(0.0, observation.at - seen_at) if seen_at is not None else 0.0)
    for sample in observation.workers:
        pod, before = found[sample.pod], after.get(sample.pod)
        after[sample.pod] = sample
        starting = before is None or pod.ready_since is None or before.at < pod.ready_since
        if before is None:
            if seen_at is None or pod.created_at < since:
                continue  # it was running before we began to look: how fast it got there is unknown
            before = _zero(sample, max(pod.created_at, seen_at))
        if sample.started < before.started or sample.cpu_seconds < before.cpu_seconds:
            before, starting = _zero(sample, before.at), True  # the container was restarted
        if sample.at > before.at:
            delta = _add(delta, before, sample, serving=not pod.terminating, starting=starting)
    return delta, tuple(after.values())


def _zero(sample: WorkerSample, at: float) -> WorkerSample:
    return WorkerSample(sample.pod, at, sample.threads_limit, 0.0, 0.0)


def _add(
    total: CounterDelta, before: WorkerSample, now: WorkerSample, *, serving: bool, starting: bool
) -> CounterDelta:
    did = {name: max(0.0, getattr(now, name) - getattr(before, name)) for name in _COUNTERS}
    seconds = now.at - before.at if serving else 0.0
    known = 0.0 if starting else 1.0
    did["cpu_seconds"] *= known
    if not serving:
        did["hub_busy_seconds"] = did["hub_blocked_seconds"] = 0.0
    did |= {
        "worker_seconds": seconds,
        "cpu_tasks": known * (did["started"] + did["finished"]) / 2,
        "serving_cpu_seconds": did["cpu_seconds"] if serving else 0.0,
        "cpu_worker_seconds": known * seconds,
        "serving_started": known * did["started"] if serving else 0.0,
    }
    return replace(total, **{name: getattr(total, name) + value for name, value in did.items()})
