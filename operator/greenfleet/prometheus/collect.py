"""From Prometheus' answers to what is known about each pool: series in, `QueueSample`s and `WorkerSample`s out.

Pure. Whose sample is it: a series counts only if the target label `namespace`, which Prometheus itself attached, agrees
with the namespace inside `pool` or `broker`, so that no tenant can speak for another's pool. Where series name no
broker, they count for pools of their own namespace, or for all if the administrator named that namespace for the
source.

Numbers of one moment are those of one target. Targets are told apart by every label that is not a part of the number's
name, so that series which are there twice make two samples that contradict each other, or none, and never a mixture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from greenfleet.autoscaling.model import QueueSample, WorkerSample
from greenfleet.prometheus import sources
from greenfleet.prometheus.series import Series
from greenfleet.prometheus.sources import (
    BROKER_ERROR,
    DEAD,
    DEAD_TASK,
    DEPTH_PARTS,
    MISSING,
    READY,
    UNACKED,
    UP,
    WORKER_PARTS,
    DepthQuery,
)

MOST_DEAD_LETTERS = 1e12
"""A queue with more has no count: no broker holds so many messages."""

_Target = frozenset[tuple[str, str]]
_NEEDED = frozenset({"threads_limit", "started", "finished"})
"""Without these a worker has no sample: a count that is missing is not zero."""
_OWN_LABELS = frozenset({"__name__", "task", "reason"})
"""Labels of a worker's series that do not name the worker."""


@dataclass(frozen=True, slots=True)
class TargetDepth:
    """One queue, as one target says it."""

    sample: QueueSample
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Depths:
    """One answer about queues."""

    queues: Mapping[tuple[str, str], tuple[TargetDepth, ...]] = field(default_factory=dict)
    """By (broker, queue). For sources that name no broker, by (namespace of the target, queue), and by ("", queue) if
    that target may speak for every pool. More than one: several targets.
    """
    down: frozenset[str] = frozenset()
    """Brokers that their exporter cannot reach."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """By each of these brokers: the kind of error, where its exporter says it."""
    missing: frozenset[tuple[str, str]] = frozenset()
    """(broker, queue) of queues that the broker does not have, as its exporter says."""
    namespace_mismatch: frozenset[str] = frozenset()
    """Namespaces that a target of another one spoke for, and was not believed."""
    spoke_for_others: frozenset[str] = frozenset()
    """Namespaces of the targets that did so."""
    unnamed: frozenset[str] = frozenset()
    """Queues of which a target said something that counts for pools of the target's namespace only."""

    dead_letters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (broker, queue), where our exporter says so."""

    def of(self, scopes: Iterable[str], queue: str) -> tuple[TargetDepth, ...]:
        """Everything said about a queue to whoever listens to these scopes: brokers or namespaces."""
        return tuple(depth for scope in scopes for depth in self.queues.get((scope, queue), ()))


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker's numbers, and what else it said."""

    sample: WorkerSample
    blocked_seconds_by_task: Mapping[str, float]
    recycle_reasons: tuple[str, ...] = ()
    risks: tuple[tuple[str, str], ...] = ()
    """What endangers tasks there: (reason, task or "")."""


@dataclass(frozen=True, slots=True)
class Workers:
    """One answer about workers: by (pool's key, role)."""

    by_fleet: Mapping[tuple[str, str], tuple[Worker, ...]] = field(default_factory=dict)
    namespace_mismatch: frozenset[str] = frozenset()
    """Namespaces that a target of another one spoke for."""
    spoke_for_others: frozenset[str] = frozenset()
    """Namespaces of the targets that did so."""
    dead_tasks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By pool's key: tasks that its living workers have moved to the dead letters."""


@dataclass(slots=True)
class _Queue:
    """What one target says about one queue."""

    labels: Mapping[str, str]
    values: dict[str, float] = field(default_factory=dict)
    at: float | None = None


class DepthReader:
    """Takes series of one answer about queues, in any order."""

    def __init__(self, query: DepthQuery, *, verify_namespace: bool) -> None:
        self._query = query
        self._verify = verify_namespace
        self._queues: dict[tuple[str, str, _Target], _Queue] = {}
        self._up: dict[str, list[float]] = defaultdict(list)
        self._errors: dict[str, tuple[float, str]] = {}
        """By broker: time of the newest sample, and the kind of error."""
        self._missing: dict[tuple[str, str], float] = {}
        """By (broker, queue): time of the newest sample that says so."""
        self._namespace_mismatch: set[str] = set()
        self._spoke_for_others: set[str] = set()
        self._unnamed: set[str] = set()
        self._dead: dict[tuple[str, str], int] = {}

    def take(self, series: Series) -> None:
        """One series."""
        query, labels = self._query, series.labels
        part = DEPTH_PARTS.get(labels.get("__name__", "")) if query.names_broker else READY
        if part is None:
            return
        scope = _scope(labels, query, verify_namespace=self._verify)
        if scope is None:
            self._namespace_mismatch.add(_namespace_of(labels.get("broker", "")))
            self._spoke_for_others.add(labels.get("namespace", ""))
            return
        if part == UP:
            self._up[scope].append(series.value)
            return
        if part == BROKER_ERROR:
            said = (series.at, labels.get("reason", ""))
            if series.value == 1:
                self._errors[scope] = max(self._errors.get(scope, said), said)
            return
        name = labels.get(query.queue_label, "")
        if part == MISSING:
            if series.value == 1:
                self._missing[scope, name] = max(self._missing.get((scope, name), 0.0), series.at)
            return
        if part == DEAD:
            if 0 <= series.value < MOST_DEAD_LETTERS:
                self._dead[scope, name] = max(self._dead.get((scope, name), 0), int(series.value))
            return
        if scope and not query.names_broker:
            self._unnamed.add(name)
        key = (scope, name, _target(labels, _NAME))
        one = self._queues.get(key)
        if one is None:
            one = self._queues[key] = _Queue(labels)
        one.values[part] = series.value
        if part == READY:
            one.at = series.at

    def result(self) -> Depths:
        """What all of them say together."""
        found: dict[tuple[str, str], list[TargetDepth]] = defaultdict(list)
        for (scope, queue, _), said in self._queues.items():
            if said.at is not None:
                sample = QueueSample(queue, said.at, said.values[READY], said.values.get(UNACKED, 0.0))
                found[scope, queue].append(TargetDepth(sample, said.labels))
        if self._query.names_broker:
            # While an exporter rolls over, the old and the new one both answer: the younger sample is the better one.
            found.update({key: _youngest(depths) for key, depths in found.items()})
        down = frozenset(broker for broker, values in self._up.items() if not any(value == 1 for value in values))
        return Depths(
            {key: tuple(depths) for key, depths in found.items()},
            down,
            {broker: kind for broker, (_, kind) in self._errors.items() if broker in down},
            # The series ends when the queue is there, and its last sample stays in the window for a while.
            frozenset(
                key for key, at in self._missing.items() if any(depth.sample.at <= at for depth in found.get(key, ()))
            ),
            frozenset(self._namespace_mismatch),
            frozenset(self._spoke_for_others - {""}),
            frozenset(self._unnamed),
            self._dead,
        )


def _youngest(depths: list[TargetDepth]) -> list[TargetDepth]:
    newest = max(depth.sample.at for depth in depths)
    return [depth for depth in depths if depth.sample.at == newest]


def read_depths(answer: Iterable[Series], query: DepthQuery, *, verify_namespace: bool) -> Depths:
    """The depth of every queue in an answer."""
    reader = DepthReader(query, verify_namespace=verify_namespace)
    for series in answer:
        reader.take(series)
    return reader.result()


class WaitingReader:
    """Takes series of an answer about queues in which something waits."""

    def __init__(self, query: DepthQuery, *, verify_namespace: bool) -> None:
        self._query = query
        self._verify = verify_namespace
        self._found: set[tuple[str, str]] = set()

    def take(self, series: Series) -> None:
        """One series."""
        scope = _scope(series.labels, self._query, verify_namespace=self._verify)
        if scope is not None:
            self._found.add((scope, series.labels.get(self._query.queue_label, "")))

    def result(self) -> frozenset[tuple[str, str]]:
        """(broker or namespace, queue) of everything that is to be believed, as in `Depths.queues`."""
        return frozenset(self._found)


def read_waiting(answer: Iterable[Series], query: DepthQuery, *, verify_namespace: bool) -> frozenset[tuple[str, str]]:
    """(broker or namespace, queue) of everything in an answer that is to be believed."""
    reader = WaitingReader(query, verify_namespace=verify_namespace)
    for series in answer:
        reader.take(series)
    return reader.result()


_NAME = frozenset({"__name__"})


def _target(labels: Mapping[str, str], without: frozenset[str]) -> _Target:
    rest = dict(labels)
    for name in without:
        rest.pop(name, None)
    return frozenset(rest.items())


def _scope(labels: Mapping[str, str], query: DepthQuery, *, verify_namespace: bool) -> str | None:
    """Whose queues a series speaks of: a broker; for sources that name none, the target's namespace, or "" for
    everybody's. None: it must not speak of them.
    """
    if query.names_broker:
        broker = labels.get("broker", "")
        return None if verify_namespace and _is_namespace_mismatch(labels, broker) else broker
    namespace = labels.get("namespace", "")
    if not verify_namespace or query.for_one_pool or namespace in query.namespaces:
        return ""
    return namespace or NOBODY


NOBODY = "-"
"""In the place of a namespace: of targets without one, which no pool can be in."""


def _namespace_of(key: str) -> str:
    return key.split("/", maxsplit=1)[0]


def _is_namespace_mismatch(labels: Mapping[str, str], key: str) -> bool:
    """Whether a target speaks for a broker or a pool (`namespace/…`) of another namespace than its own."""
    return labels.get("namespace") != _namespace_of(key)


@dataclass(slots=True)
class _Process:
    """What one target says about one worker."""

    values: dict[str, float] = field(default_factory=dict)
    at: float = 0.0
    blocked: dict[str, float] = field(default_factory=dict)
    recycle: list[str] = field(default_factory=list)
    risks: list[tuple[str, str]] = field(default_factory=list)


class WorkerReader:
    """Takes series of one answer about workers, in any order."""

    def __init__(self, *, verify_namespace: bool) -> None:
        self._verify = verify_namespace
        self._processes: dict[_Target, _Process] = {}
        self._workers: dict[tuple[str, str, str], list[_Process]] = defaultdict(list)
        self._namespace_mismatch: set[str] = set()
        self._spoke_for_others: set[str] = set()
        self._dead_tasks: dict[str, set[str]] = defaultdict(set)

    def take(self, series: Series) -> None:
        """One series."""
        labels = series.labels
        part = WORKER_PARTS.get(labels.get("__name__", ""))
        if part is None:
            return
        pool = labels.get("pool", "")
        if self._verify and _is_namespace_mismatch(labels, pool):
            self._namespace_mismatch.add(_namespace_of(pool))
            self._spoke_for_others.add(labels.get("namespace", ""))
            return
        if part == DEAD_TASK:
            if labels.get("task") and series.value > 0:
                self._dead_tasks[pool].add(labels["task"])
            return
        target = _target(labels, _OWN_LABELS)
        process = self._processes.get(target)
        if process is None:
            process = self._processes[target] = _Process()
            self._workers[pool, labels.get("role", ""), labels.get("worker", "")].append(process)
        match part:
            case sources.HUB_BLOCKED:
                process.blocked[labels.get("task", "")] = series.value
            case sources.RECYCLE:
                if series.value > 0:
                    process.recycle.append(labels.get("reason", ""))
            case sources.RISK:
                if series.value > 0:
                    process.risks.append((labels.get("reason", ""), labels.get("task", "")))
            case _:
                process.values[part] = series.value
                if part == "threads_limit":
                    process.at = series.at

    def result(self) -> Workers:
        """What all of them say together."""
        fleets: dict[tuple[str, str], list[Worker]] = defaultdict(list)
        for (pool, role, pod), processes in self._workers.items():
            fleets[pool, role].extend(_workers(pod, processes))
        return Workers(
            {key: tuple(workers) for key, workers in fleets.items() if workers},
            frozenset(self._namespace_mismatch),
            frozenset(self._spoke_for_others - {""}),
            {key: frozenset(tasks) for key, tasks in self._dead_tasks.items()},
        )


def _workers(pod: str, processes: Iterable[_Process]) -> Iterator[Worker]:
    """The newest numbers; several only if they are of the same moment."""
    whole = [process for process in processes if process.values.keys() >= _NEEDED]
    newest = max((process.at for process in whole), default=0.0)
    for process in whole:
        if process.at == newest:
            values = {"threads_busy": 0.0, "reserved": 0.0, **process.values}
            sample = WorkerSample(pod=pod, at=process.at, hub_blocked_seconds=sum(process.blocked.values()), **values)
            yield Worker(sample, process.blocked, tuple(sorted(process.recycle)), tuple(sorted(process.risks)))


def read_workers(answer: Iterable[Series], *, verify_namespace: bool) -> Workers:
    """The numbers of every worker in an answer."""
    reader = WorkerReader(verify_namespace=verify_namespace)
    for series in answer:
        reader.take(series)
    return reader.result()
