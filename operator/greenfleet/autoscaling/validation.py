"""What a sample really says, and whether that is enough to act on.

Missing is not zero. A sample is either complete, and becomes a `Observation`, or it is a list of `Problem`s; there is nothing in
between, because an autoscaler that fills gaps with zeros kills the workers that it cannot see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .model import MetricsIssue, Pod, Problem, QueueSample, Sample, ScalingSpec, WorkerSample
from .state import State

STALE_FLOOR_SECONDS = 15.0
"""A sample younger than this is never stale, however short the scrape interval is (DESIGN: max(3 intervals, 15 s))."""

SILENT_PODS_BUSY_SECONDS = 300.0
"""A pod that is not Ready and has no sample counts as busy for so long after its creation or its last sample; one that
cannot even start must not keep a pool alive for ever."""

_ORDER = tuple(MetricsIssue)


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


@dataclass(frozen=True, slots=True)
class Validation:
    """A complete view, or the reasons why there is none (most telling first)."""

    observation: Observation | None
    problems: tuple[Problem, ...]


def stale_after_seconds(scrape_interval_seconds: float) -> float:
    """Age beyond which a sample says nothing about now."""
    return max(3 * scrape_interval_seconds, STALE_FLOOR_SECONDS)


def validate(spec: ScalingSpec, state: State, sample: Sample, now: float) -> Validation:
    """Judge the sample; complete metrics or none."""
    problems = list(sample.problems)
    queues = _queues(spec, sample, now, problems)
    workers = _workers(spec, sample, now, problems)
    if problems:
        return Validation(None, _most_telling_first(problems))
    return Validation(_view(spec, state, sample, now, queues=queues, workers=workers), ())


def _most_telling_first(problems: list[Problem]) -> tuple[Problem, ...]:
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: _ORDER.index(problem.reason)))


def _usable(*values: float) -> bool:
    return all(math.isfinite(value) and value >= 0 for value in values)


def _time_problem(spec: ScalingSpec, at: float, now: float, what: str) -> Problem | None:
    limit = stale_after_seconds(spec.scrape_interval_seconds)
    if not math.isfinite(at):
        return Problem(MetricsIssue.BAD_VALUE, f"the sample of {what} has no usable time")
    if now - at > limit:
        return Problem(MetricsIssue.STALE, f"the sample of {what} is too old to say anything about now")
    if at - now > limit:
        return Problem(
            MetricsIssue.STALE,
            f"the sample of {what} comes from the future: the clocks of Prometheus and of the operator differ",
        )
    return None


def _queues(spec: ScalingSpec, sample: Sample, now: float, problems: list[Problem]) -> dict[str, QueueSample]:
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
        if (problem := _time_problem(spec, newest.at, now, what)) is not None:
            problems.append(problem)
            continue
        rivals = [queue for queue in found if newest.at - queue.at <= spec.scrape_interval_seconds]
        low, high = min(queue.ready for queue in rivals), max(queue.ready for queue in rivals)
        if high - low > 10 + 0.1 * high:
            problems.append(
                Problem(
                    MetricsIssue.CONTRADICTION,
                    f"several fresh samples of {what} disagree: two exporters, or a duplicate series",
                )
            )
            continue
        unacked = max(queue.unacked for queue in rivals)
        chosen[name] = QueueSample(queue=name, at=newest.at, ready=high, unacked=unacked)
    return chosen


def _worker_values(worker: WorkerSample) -> tuple[float, ...]:
    return (
        worker.threads_limit,
        worker.threads_busy,
        worker.reserved,
        worker.scheduled,
        worker.started,
        worker.finished,
        worker.runtime_sum_seconds,
        worker.runtime_count,
        worker.cpu_seconds,
        worker.hub_busy_seconds,
        worker.hub_blocked_seconds,
        worker.hub_lag_sum_seconds,
        worker.hub_lag_count,
        worker.memory_bytes,
    )


def _workers(spec: ScalingSpec, sample: Sample, now: float, problems: list[Problem]) -> dict[str, WorkerSample]:
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
            continue
        if not all(_usable(*_worker_values(worker)) and math.isfinite(worker.at) for worker in found):
            problems.append(Problem(MetricsIssue.BAD_VALUE, "a worker's sample is not a set of counts"))
            continue
        if any(one.at == two.at and one != two for one, two in pairwise(found)):
            problems.append(
                Problem(MetricsIssue.CONTRADICTION, "a worker has two different samples of the same moment")
            )
            continue
        newest = found[-1]
        if (problem := _time_problem(spec, newest.at, now, "a worker")) is not None:
            if due:
                problems.append(problem)
            continue
        chosen[pod.name] = newest
    return chosen


def _view(
    spec: ScalingSpec,
    state: State,
    sample: Sample,
    now: float,
    *,
    queues: dict[str, QueueSample],
    workers: dict[str, WorkerSample],
) -> Observation:
    alive = [pod for pod in sample.pods if not pod.terminating]
    last_seen = {counters.pod: counters.at for counters in state.counters}
    unseen = [
        pod
        for pod in sample.pods
        if pod.name not in workers and _may_be_busy(pod, last_seen.get(pod.name, pod.created_at), now)
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


def _may_be_busy(pod: Pod, last_sign_of_life: float, now: float) -> bool:
    """Whether a pod without a sample may be running tasks: a young one, or one that has just stopped being Ready."""
    if pod.ready_since is not None:
        return True
    return not pod.terminating and now - last_sign_of_life < SILENT_PODS_BUSY_SECONDS
