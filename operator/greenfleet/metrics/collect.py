"""From Prometheus' answers to what is known about each pool: values in, `QueueSample`s and `WorkerSample`s out.

Pure. Whose sample is it: a series counts only if the target label `namespace`, which Prometheus itself attached, agrees
with the namespace inside `pool` or `broker`, so that no tenant can speak for another's pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from greenfleet.metrics.prometheus import Series
from greenfleet.metrics.sources import AT, PART, READY, UNACKED, UP, DepthQuery
from greenfleet.scaling.types import QueueSample, WorkerSample


@dataclass(frozen=True, slots=True)
class Depths:
    """One answer about queues."""

    queues: Mapping[tuple[str, str], tuple[QueueSample, ...]] = field(default_factory=dict)
    """By (broker, queue); the broker is "" for sources that do not name it. More than one sample: several targets."""
    down: frozenset[str] = frozenset()
    """Brokers that their exporter cannot reach."""
    foreign: frozenset[str] = frozenset()
    """Namespaces of targets that spoke for another namespace and were not believed."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker's numbers, and what else it said."""

    sample: WorkerSample
    blocked_seconds_by_task: Mapping[str, float]
    recycle_reasons: tuple[str, ...] = ()
    guards: tuple[tuple[str, str], ...] = ()
    """What endangers tasks there: (reason, task or "")."""


@dataclass(frozen=True, slots=True)
class Workers:
    """One answer about workers: by (pool's key, role)."""

    by_fleet: Mapping[tuple[str, str], tuple[Worker, ...]] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def read_depths(answer: Iterable[Series], query: DepthQuery, *, verify_namespace: bool) -> Depths:
    """The depth of every queue in an answer."""
    parts: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    up: dict[str, list[float]] = defaultdict(list)
    foreign: set[str] = set()
    verify = verify_namespace and query.names_broker
    for series in answer:
        labels = series.labels
        broker = _broker(series, query)
        if verify and _is_foreign(series, broker):
            foreign.add(labels.get("namespace", ""))
            continue
        if labels.get(PART) == UP:
            up[broker].append(series.value)
        else:
            target = f"{labels.get('instance', '')} {labels.get('job', '')} {labels.get('vhost', '')} {labels.get('pod', '')}"
            parts[broker, labels.get(query.queue_label, ""), target][labels.get(PART, "")] = series.value
    found: dict[tuple[str, str], list[QueueSample]] = defaultdict(list)
    for (broker, queue, _), values in parts.items():
        if READY in values and AT in values:
            found[broker, queue].append(QueueSample(queue, values[AT], values[READY], values.get(UNACKED, 0.0)))
    if query.names_broker:
        # While an exporter rolls over, the old and the new one both answer: the younger sample is the better one.
        found.update({key: [max(samples, key=lambda sample: sample.at)] for key, samples in found.items()})
    return Depths(
        {key: tuple(samples) for key, samples in found.items()},
        frozenset(broker for broker, values in up.items() if not any(value == 1 for value in values)),
        frozenset(foreign),
    )


def read_waiting(answer: Iterable[Series], query: DepthQuery, *, verify_namespace: bool) -> frozenset[tuple[str, str]]:
    """(broker, queue) of everything in an answer that is to be believed."""
    verify = verify_namespace and query.names_broker
    return frozenset(
        (broker, one.labels.get(query.queue_label, ""))
        for broker, one in ((_broker(one, query), one) for one in answer)
        if not (verify and _is_foreign(one, broker))
    )


def _broker(series: Series, query: DepthQuery) -> str:
    return series.labels.get("broker", "") if query.names_broker else ""


def _is_foreign(series: Series, key: str) -> bool:
    """Whether a target speaks for a broker or a pool (`namespace/…`) of another namespace than its own."""
    return series.labels.get("namespace") != key.split("/", maxsplit=1)[0]


def read_workers(answer: Iterable[Series], *, verify_namespace: bool) -> Workers:
    """The numbers of every worker in an answer."""
    values: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    blocked: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    recycle: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    guards: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    foreign: set[str] = set()
    for series in answer:
        labels = series.labels
        pool = labels.get("pool", "")
        if verify_namespace and _is_foreign(series, pool):
            foreign.add(labels.get("namespace", ""))
            continue
        worker = (pool, labels.get("role", ""), labels.get("worker", ""))
        match labels.get(PART, ""):
            case "hub_blocked":
                blocked[worker][labels.get("task", "")] = series.value
            case "recycle":
                recycle[worker].append(labels.get("reason", ""))
            case "guard":
                guards[worker].append((labels.get("reason", ""), labels.get("task", "")))
            case part:
                values[worker][part] = series.value
    fleets: dict[tuple[str, str], list[Worker]] = defaultdict(list)
    for worker, numbers in values.items():
        if AT in numbers and "threads_limit" in numbers:
            pool, role, pod = worker
            tasks = blocked.get(worker, {})
            sample = _worker_sample(pod, numbers, sum(tasks.values()))
            reasons, dangers = sorted(recycle.get(worker, ())), sorted(guards.get(worker, ()))
            fleets[pool, role].append(Worker(sample, tasks, tuple(reasons), tuple(dangers)))
    return Workers({key: tuple(workers) for key, workers in fleets.items()}, frozenset(foreign))


def _worker_sample(pod: str, numbers: Mapping[str, float], blocked_seconds: float) -> WorkerSample:
    def number(part: str) -> float:
        return numbers.get(part, 0.0)

    return WorkerSample(
        pod=pod,
        at=numbers[AT],
        threads_limit=numbers["threads_limit"],
        threads_busy=number("threads_busy"),
        reserved=number("reserved"),
        scheduled=number("scheduled"),
        started=number("started"),
        finished=number("finished"),
        runtime_sum_seconds=number("runtime_sum"),
        runtime_count=number("runtime_count"),
        cpu_seconds=number("cpu"),
        hub_busy_seconds=number("hub_busy"),
        hub_blocked_seconds=blocked_seconds,
        hub_lag_sum_seconds=number("hub_lag_sum"),
        hub_lag_count=number("hub_lag_count"),
        memory_bytes=number("memory"),
    )
