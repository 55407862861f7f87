"""What a sample really says, and whether that is enough to act on.

Missing is not zero. A sample is either complete, and becomes an `Observation`, or it is a list of `Problem`s: an
autoscaler that fills gaps with zeros kills the workers that it cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from .model import MetricsIssue, Pod, Problem, QueueSample, Sample, ScalingSpec, WorkerSample
from .tuning import DEFAULT, Tuning

_ORDER = tuple(MetricsIssue)
_VALUES = tuple(field.name for field in fields(WorkerSample) if field.name != "pod")


@dataclass(frozen=True, slots=True)
class Observation:
    """One complete look at a pool. Amounts of messages are floats because Prometheus says so."""

    at: float
    """Scrape time of the oldest queue sample."""
    ready: float
    unacked: float
    reserved: float
    busy: float
    """Running tasks; a Ready pod without a sample yet counts with all its green threads."""
    scheduled: float
    workers: tuple[WorkerSample, ...]
    """The newest sample of each existing pod, the ones that drain included."""
    serving: tuple[Pod, ...]
    """Ready and not leaving."""
    coming: tuple[Pod, ...]
    """Neither Ready nor leaving."""
    leaving: tuple[Pod, ...]

    @property
    def threads_busy(self) -> float:
        """Tasks that run in workers with a sample."""
        return sum(worker.threads_busy for worker in self.workers)

    @property
    def threads_limit(self) -> float:
        """Green threads of workers with a sample."""
        return sum(worker.threads_limit for worker in self.workers)

    @property
    def unstarted(self) -> float:
        """Messages that wait for a green thread, in the broker or prefetched."""
        return self.ready + self.reserved

    @property
    def empty(self) -> bool:
        """Nothing waits, runs or is held by anyone. Tasks held for an ETA are another matter."""
        return self.unstarted == 0 and self.busy == 0 and self.unacked == 0


def stale_after_seconds(scrape_interval_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """Age beyond which a sample says nothing about now."""
    return tuning.lasting(tuning.stale_seconds, scrape_interval_seconds)


def validate(
    spec: ScalingSpec, last: tuple[WorkerSample, ...], sample: Sample, now: float, tuning: Tuning = DEFAULT
) -> tuple[Observation | None, tuple[Problem, ...]]:
    """A complete observation, or why there is none, most telling first. `last` are the samples seen before."""
    looked = [_queue(spec, sample.queues, name, now, tuning) for name in sample.expected_queues]
    by_pod: dict[str, list[WorkerSample]] = {}
    for sampled in sample.workers:
        by_pod.setdefault(sampled.pod, []).append(sampled)
    watched = [_worker(spec, by_pod.get(pod.name, []), pod, now, tuning) for pod in sample.pods]
    found = [each for each in (*looked, *watched) if isinstance(each, Problem)]
    if sample.problems:  # the collector has said why something is missing: one reason is enough
        found = [each for each in found if each.reason not in {MetricsIssue.NO_SAMPLE, MetricsIssue.WORKER_MISSING}]
    if problems := dict.fromkeys((*sample.problems, *found)):
        return None, tuple(sorted(problems, key=lambda problem: _ORDER.index(problem.reason)))
    queues = [each for each in looked if isinstance(each, QueueSample)]
    workers = tuple(each for each in watched if isinstance(each, WorkerSample))
    seen_at = {worker.pod: worker.at for worker in last}
    silent = [pod for pod, worker in zip(sample.pods, watched, strict=True) if worker is None]
    unseen = [pod for pod in silent if _may_be_busy(pod, now - seen_at.get(pod.name, pod.created_at), tuning)]
    alive = [pod for pod in sample.pods if not pod.terminating]
    return Observation(
        at=min((queue.at for queue in queues), default=now),
        ready=sum(queue.ready for queue in queues),
        unacked=sum(queue.unacked for queue in queues),
        reserved=sum(worker.reserved for worker in workers),
        busy=sum(worker.threads_busy for worker in workers) + sum(pod.threads or spec.threads_start for pod in unseen),
        scheduled=sum(worker.scheduled for worker in workers),
        workers=workers,
        serving=tuple(pod for pod in alive if pod.ready_since is not None),
        coming=tuple(pod for pod in alive if pod.ready_since is None),
        leaving=tuple(pod for pod in sample.pods if pod.terminating),
    ), ()


def _usable(*values: float) -> bool:
    return all(value == 0 or 1e-9 <= value <= 1e15 for value in values)  # of anything else, quotients overflow


def _time_problem(spec: ScalingSpec, at: float, now: float, what: str, tuning: Tuning) -> Problem | None:
    if abs(now - at) <= stale_after_seconds(spec.scrape_interval_seconds, tuning):
        return None
    wrong = "is too old to say anything about now"
    if at > now:
        wrong = "comes from the future: the clocks of Prometheus and of the operator differ"
    return Problem(MetricsIssue.STALE, f"the sample of {what} {wrong}")


def _queue(
    spec: ScalingSpec, samples: Sequence[QueueSample], name: str, now: float, tuning: Tuning
) -> QueueSample | Problem:
    """The deepest of the newest samples of a queue."""
    what, found = f"queue {name!r}", [queue for queue in samples if queue.queue == name]
    if not found:
        return Problem(MetricsIssue.NO_SAMPLE, f"Prometheus has no sample of {what}")
    if not all(_usable(queue.ready, queue.unacked, queue.at) for queue in found):
        return Problem(MetricsIssue.BAD_VALUE, f"the depth of {what} is not a number of messages")
    newest = max(queue.at for queue in found)
    if (problem := _time_problem(spec, newest, now, what, tuning)) is not None:
        return problem
    fresh = [queue for queue in found if newest - queue.at <= spec.scrape_interval_seconds]
    low, high = min(queue.ready for queue in fresh), max(queue.ready for queue in fresh)
    if high - low > tuning.disagreement * (high + 100):
        text = f"several fresh samples of {what} disagree: two exporters, or a duplicate series"
        return Problem(MetricsIssue.CONTRADICTION, text)
    return QueueSample(name, newest, high, max(queue.unacked for queue in fresh))


def _worker(
    spec: ScalingSpec, found: list[WorkerSample], pod: Pod, now: float, tuning: Tuning
) -> WorkerSample | Problem | None:
    """The newest sample of a pod. It must have one once it has been Ready for two scrapes, terminating or not."""
    due = pod.ready_since is not None and now - pod.ready_since >= 2 * spec.scrape_interval_seconds
    if not found:
        return Problem(MetricsIssue.WORKER_MISSING, "a worker that should be running has no sample") if due else None
    if not all(_usable(*(getattr(worker, name) for name in _VALUES)) for worker in found):
        return Problem(MetricsIssue.BAD_VALUE, "a worker's sample is not a set of counts")
    found.sort(key=lambda worker: worker.at)
    if any(one.at == two.at and one != two for one, two in pairwise(found)):
        return Problem(MetricsIssue.CONTRADICTION, "a worker has two different samples of the same moment")
    problem = _time_problem(spec, found[-1].at, now, "a worker", tuning)
    return found[-1] if problem is None else problem if due else None


def _may_be_busy(pod: Pod, silent_seconds: float, tuning: Tuning) -> bool:
    """Whether a pod without a sample may be running tasks: a young one, or one that has just stopped being Ready."""
    return pod.ready_since is not None or (not pod.terminating and silent_seconds < tuning.longest_seconds)
