"""What a sample really says, and whether that is enough to act on.

Missing is not zero. A sample is either complete, and becomes an `Observation`, or it is a list of `Problem`s; there is nothing in
between, because an autoscaler that fills gaps with zeros kills the workers that it cannot see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

from .model import MetricsIssue, Pod, Problem, QueueSample, Sample, ScalingSpec, WorkerSample
from .tuning import DEFAULT, Tuning

_ORDER = tuple(MetricsIssue)
_VALUES = tuple(field.name for field in fields(WorkerSample) if field.name not in {"pod", "at"})


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
    def unstarted(self) -> float:
        """Messages that wait for a green thread, in the broker or prefetched."""
        return self.ready + self.reserved

    @property
    def empty(self) -> bool:
        """Nothing waits, runs or is held by anyone. Tasks held for an ETA are another matter."""
        return self.unstarted == 0 and self.busy == 0 and self.unacked == 0


def stale_after_seconds(scrape_interval_seconds: float, tuning: Tuning = DEFAULT) -> float:
    """Age beyond which a sample says nothing about now."""
    return max(tuning.lasting_scrapes * scrape_interval_seconds, tuning.stale_seconds)


def validate(
    spec: ScalingSpec, last: tuple[WorkerSample, ...], sample: Sample, now: float, tuning: Tuning = DEFAULT
) -> tuple[Observation | None, tuple[Problem, ...]]:
    """A complete observation, or the reasons why there is none, most telling first. `last` are the samples seen before."""
    problems = list(sample.problems)
    queues = _queues(spec, sample, now, problems, tuning)
    workers = _workers(spec, sample, now, problems, tuning)
    if problems:
        unique = dict.fromkeys(problems)
        return None, tuple(sorted(unique, key=lambda problem: _ORDER.index(problem.reason)))
    return _observation(spec, last, sample, now, (queues, workers), tuning), ()


def _usable(*values: float) -> bool:
    return all(value == 0 or 1e-9 <= value <= 1e15 for value in values)  # of anything else, quotients overflow


def _time_problem(spec: ScalingSpec, at: float, now: float, what: str, tuning: Tuning) -> Problem | None:
    limit = stale_after_seconds(spec.scrape_interval_seconds, tuning)
    if not math.isfinite(at):
        return Problem(MetricsIssue.BAD_VALUE, f"the sample of {what} has no usable time")
    if now - at > limit:
        return Problem(MetricsIssue.STALE, f"the sample of {what} is too old to say anything about now")
    if at - now > limit:
        text = f"the sample of {what} comes from the future: the clocks of Prometheus and of the operator differ"
        return Problem(MetricsIssue.STALE, text)
    return None


def _queues(
    spec: ScalingSpec, sample: Sample, now: float, problems: list[Problem], tuning: Tuning
) -> dict[str, QueueSample]:
    chosen: dict[str, QueueSample] = {}
    silent = bool(sample.problems)  # the collector has said why; a second reason for the same gap helps nobody
    for name in sample.expected_queues:
        what = f"queue {name!r}"
        found = [queue for queue in sample.queues if queue.queue == name]
        if not found:
            if not silent:
                problems.append(Problem(MetricsIssue.NO_SAMPLE, f"Prometheus has no sample of {what}"))
            continue
        if not all(_usable(queue.ready, queue.unacked) and math.isfinite(queue.at) for queue in found):
            problems.append(Problem(MetricsIssue.BAD_VALUE, f"the depth of {what} is not a number of messages"))
            continue
        newest = max(found, key=lambda queue: (queue.at, queue.ready))
        if (problem := _time_problem(spec, newest.at, now, what, tuning)) is not None:
            problems.append(problem)
            continue
        fresh = [queue for queue in found if newest.at - queue.at <= spec.scrape_interval_seconds]
        low, high = min(queue.ready for queue in fresh), max(queue.ready for queue in fresh)
        if high - low > tuning.disagreement * (high + 100):
            text = f"several fresh samples of {what} disagree: two exporters, or a duplicate series"
            problems.append(Problem(MetricsIssue.CONTRADICTION, text))
            continue
        chosen[name] = QueueSample(name, newest.at, high, max(queue.unacked for queue in fresh))
    return chosen


def _workers(
    spec: ScalingSpec, sample: Sample, now: float, problems: list[Problem], tuning: Tuning
) -> dict[str, WorkerSample]:
    """The newest sample of each pod. A pod must have one once it has been Ready for two scrapes, terminating or not."""
    by_pod: dict[str, list[WorkerSample]] = {}
    for worker in sample.workers:
        by_pod.setdefault(worker.pod, []).append(worker)
    chosen: dict[str, WorkerSample] = {}
    for pod in sample.pods:
        found = sorted(by_pod.get(pod.name, ()), key=lambda worker: worker.at if math.isfinite(worker.at) else math.inf)
        due = pod.ready_since is not None and now - pod.ready_since >= 2 * spec.scrape_interval_seconds
        if not found:
            if due and not sample.problems:
                problems.append(Problem(MetricsIssue.WORKER_MISSING, "a worker that should be running has no sample"))
        elif not all(
            math.isfinite(worker.at) and _usable(*(getattr(worker, name) for name in _VALUES)) for worker in found
        ):
            problems.append(Problem(MetricsIssue.BAD_VALUE, "a worker's sample is not a set of counts"))
        elif any(one.at == two.at and one != two for one, two in pairwise(found)):
            problems.append(
                Problem(MetricsIssue.CONTRADICTION, "a worker has two different samples of the same moment")
            )
        elif (problem := _time_problem(spec, found[-1].at, now, "a worker", tuning)) is None:
            chosen[pod.name] = found[-1]
        elif due:
            problems.append(problem)
    return chosen


def _observation(  # noqa: PLR0917
    spec: ScalingSpec,
    last: tuple[WorkerSample, ...],
    sample: Sample,
    now: float,
    chosen: tuple[dict[str, QueueSample], dict[str, WorkerSample]],
    tuning: Tuning,
) -> Observation:
    queues, workers = chosen
    alive = [pod for pod in sample.pods if not pod.terminating]
    seen_at = {worker.pod: worker.at for worker in last}
    unseen = [
        pod
        for pod in sample.pods
        if pod.name not in workers and _may_be_busy(pod, now - seen_at.get(pod.name, pod.created_at), tuning)
    ]
    samples = tuple(workers.values())
    return Observation(
        at=min((queue.at for queue in queues.values()), default=now),
        ready=sum(queue.ready for queue in queues.values()),
        unacked=sum(queue.unacked for queue in queues.values()),
        reserved=sum(worker.reserved for worker in samples),
        busy=sum(worker.threads_busy for worker in samples) + sum(pod.threads or spec.threads_start for pod in unseen),
        scheduled=sum(worker.scheduled for worker in samples),
        workers=samples,
        serving=tuple(pod for pod in alive if pod.ready_since is not None),
        coming=tuple(pod for pod in alive if pod.ready_since is None),
        leaving=tuple(pod for pod in sample.pods if pod.terminating),
    )


def _may_be_busy(pod: Pod, silent_seconds: float, tuning: Tuning) -> bool:
    """Whether a pod without a sample may be running tasks: a young one, or one that has just stopped being Ready."""
    return pod.ready_since is not None or (not pod.terminating and silent_seconds < tuning.silent_pod_seconds)
