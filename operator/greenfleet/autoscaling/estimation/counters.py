"""What all workers of a pool did between two scrapes: differences of their counters, summed.

A counter that starts again from zero (a restarted container) is a new count, never a negative one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..model import Pod, WorkerCounters, WorkerSample
from ..tuning import Tuning
from ..validation import Observation


@dataclass(frozen=True, slots=True)
class CounterDelta(WorkerCounters):
    """Sums over workers: `hub_…` of those that stay, `cpu_…` of those that were Ready throughout, too (importing the
    user's code is no task's CPU).
    """

    seconds: float = 0.0
    """Between the scrapes of the queues."""
    worker_seconds: float = 0.0
    """Summed over the workers that were scraped twice and stay."""
    cpu_worker_seconds: float = 0.0
    """0: nothing is known about the cores."""
    cpu_started: float = 0.0
    cpu_finished: float = 0.0
    running_seconds: float = 0.0
    """Summed over the tasks that ran."""
    unstarted_before: float = 0.0
    """Messages that waited in the broker or prefetched at the first of the two scrapes."""

    @property
    def hub_utilisation(self) -> float:
        return self.hub_busy_seconds / self.worker_seconds if self.worker_seconds > 0 else 0.0

    def utilisation(self, cores: float) -> float:
        """Of a core of so many `cores` or of the hub's time, whichever is busier."""
        used = self.cpu_seconds / self.cpu_worker_seconds if self.cpu_worker_seconds > 0 else 0.0
        return max(used / cores, self.hub_utilisation)

    def blocked(self, tuning: Tuning) -> bool:
        """Whether a blocking task, not load, is what the hubs suffer from."""
        return self.worker_seconds > 0 and self.hub_blocked_seconds > tuning.blocked * self.worker_seconds


_COUNTERS = {field.name for field in fields(WorkerCounters)}


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
            delta = _add(delta, before, sample, stays=not pod.terminating, starting=starting)
    return delta, tuple(after.values())


def _zero(sample: WorkerSample, at: float) -> WorkerSample:
    return WorkerSample(sample.pod, at, sample.threads_limit, 0.0, 0.0)


def _add(total: CounterDelta, before: WorkerSample, now: WorkerSample, *, stays: bool, starting: bool) -> CounterDelta:
    did = {name: max(0.0, getattr(now, name) - getattr(before, name)) for name in _COUNTERS}
    seconds, staying, known = now.at - before.at, float(stays), float(stays and not starting)
    did |= {
        "cpu_seconds": known * did["cpu_seconds"],
        "cpu_worker_seconds": known * seconds,
        "cpu_started": known * did["started"],
        "cpu_finished": known * did["finished"],
        "hub_busy_seconds": staying * did["hub_busy_seconds"],
        "hub_blocked_seconds": staying * did["hub_blocked_seconds"],
        "worker_seconds": staying * seconds,
        "running_seconds": seconds * (before.threads_busy + now.threads_busy) / 2,
    }
    return replace(total, **{name: getattr(total, name) + value for name, value in did.items()})
