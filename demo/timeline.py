"""What was seen, second by second, and the arithmetic on it. Pure, but for reading and writing JSON lines.

A timeline is a file of JSON lines, one object each: `{"kind": "snapshot", …}`, `{"kind": "reason", …}` or
`{"kind": "mark", …}`. It is written while the demo runs, so that a run that was interrupted can still be drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker pod at one moment."""

    name: str
    ready: bool
    leaving: bool
    """Terminating: it drains."""
    asked: int | None
    """Green threads that the operator asked for (the pod's annotation); None: not yet."""
    limit: int | None
    """Green threads that it really has, by its own metric; None: no sample."""
    busy: int | None
    """Green threads that run a task; None: no sample."""

    @property
    def threads(self) -> int:
        """Green threads of a ready worker as far as they are known; 0 for one that is not there yet."""
        if not self.ready:
            return 0
        return self.limit if self.limit is not None else (self.asked or 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was seen at one moment."""

    at: float
    """Unix time."""
    phase: str
    sent: int
    executions: int
    """Lines in the ledger."""
    waiting: int
    """Messages in the queue that no worker has."""
    unacked: int
    """Messages that a worker holds."""
    oldest_seconds: float
    """How long the oldest waiting message has been waiting."""
    desired: int
    """Replicas of the Deployment."""
    workers: tuple[Worker, ...]
    prometheus: bool
    """Whether Prometheus answered."""
    metrics_available: bool | None
    """The pool's condition MetricsAvailable; None: not there."""
    why: str
    """The operator's present reason."""
    finished: bool = False
    """The producer has published everything."""
    producer_error: str = ""
    """What stopped the producer, if anything did."""
    phase_started_at: float = 0.0
    """When the phase began, on the clock of this machine."""

    @property
    def ready(self) -> int:
        """Ready workers."""
        return sum(worker.ready for worker in self.workers)

    @property
    def threads(self) -> int:
        """Green threads of the whole fleet."""
        return sum(worker.threads for worker in self.workers)

    @property
    def busy(self) -> int:
        """Green threads that run a task."""
        return sum(worker.busy or 0 for worker in self.workers)


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that the operator said: an Event of the pool, or a new `status.lastScale`."""

    at: float
    source: str
    """`Event/<reason>` or `lastScale`."""
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the demo did: a phase began, a fault was injected or ended."""

    at: float
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with a name."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class Timeline:
    """One run."""

    snapshots: list[Snapshot] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def add(self, entry: Snapshot | Reason | Mark) -> None:
        """Append one entry where it belongs."""
        if isinstance(entry, Snapshot):
            self.snapshots.append(entry)
        elif isinstance(entry, Reason):
            self.reasons.append(entry)
        else:
            self.marks.append(entry)

    def mark(self, name: str) -> Mark | None:
        """The first mark of that name."""
        return next((mark for mark in self.marks if mark.name == name), None)


def to_line(entry: Snapshot | Reason | Mark) -> str:
    """One JSON line."""
    return json.dumps({"kind": type(entry).__name__.lower(), **asdict(entry)}, ensure_ascii=False)


def from_line(line: str) -> Snapshot | Reason | Mark:
    """The inverse of `to_line`."""
    content: dict[str, Any] = json.loads(line)
    kind = content.pop("kind")
    if kind == "snapshot":
        content["workers"] = tuple(Worker(**worker) for worker in content["workers"])
        return Snapshot(**content)
    return Reason(**content) if kind == "reason" else Mark(**content)


def read(path: Path) -> Timeline:
    """A recorded timeline."""
    timeline = Timeline()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            timeline.add(from_line(line))
    return timeline


def phases(snapshots: Iterable[Snapshot]) -> tuple[Span, ...]:
    """The stretches in which the phase was the same; each lasts until the next begins."""
    spans: list[Span] = []
    for snapshot in snapshots:
        if not snapshot.phase:
            continue
        if spans and spans[-1].name == snapshot.phase:
            spans[-1] = Span(snapshot.phase, spans[-1].start, snapshot.at)
            continue
        if spans:
            spans[-1] = Span(spans[-1].name, spans[-1].start, snapshot.at)
        spans.append(Span(snapshot.phase, snapshot.at, snapshot.at))
    return tuple(spans)


def worker_seconds(snapshots: Iterable[Snapshot]) -> float:
    """Seconds of existence of all worker pods together: from creation until they are gone, drain included."""
    return sum((after.at - before.at) * len(before.workers) for before, after in _pairs(snapshots))


def done_per_second(snapshots: Iterable[Snapshot], window_seconds: float = 4.0) -> list[tuple[float, float]]:
    """Executions per second, over a short window that ends at each snapshot."""
    seen: list[Snapshot] = []
    rates: list[tuple[float, float]] = []
    for snapshot in snapshots:
        seen.append(snapshot)
        while len(seen) > 2 and snapshot.at - seen[1].at >= window_seconds:
            seen.pop(0)
        elapsed = snapshot.at - seen[0].at
        rates.append((snapshot.at, (snapshot.executions - seen[0].executions) / elapsed if elapsed > 0 else 0.0))
    return rates


def seconds_to_more_threads(snapshots: Iterable[Snapshot], since: float) -> float | None:
    """From `since` until the fleet had more green threads than then, by the workers' own metrics.

    What had been asked for by then and took effect a moment later is no answer to what happened at `since`.
    """
    seen = list(snapshots)
    before = [snapshot for snapshot in seen if snapshot.at <= since]
    known = (
        sum(max(worker.threads, worker.asked or 0) for worker in before[-1].workers if worker.ready) if before else 0
    )
    return next((snapshot.at - since for snapshot in seen if snapshot.at > since and snapshot.threads > known), None)


def seconds_to_more_workers(snapshots: Iterable[Snapshot], since: float) -> float | None:
    """From `since` until more workers were Ready than then."""
    seen = list(snapshots)
    before = [snapshot.ready for snapshot in seen if snapshot.at <= since]
    known = before[-1] if before else 0
    return next((snapshot.at - since for snapshot in seen if snapshot.at > since and snapshot.ready > known), None)


def scale_ins(snapshots: Iterable[Snapshot], start: float, end: float) -> list[tuple[float, int, int]]:
    """Each time that fewer workers were wanted between `start` and `end`: (Unix time, before, after)."""
    window = [snapshot for snapshot in snapshots if start <= snapshot.at <= end]
    return [
        (after.at, before.desired, after.desired) for before, after in _pairs(window) if after.desired < before.desired
    ]


def _pairs(snapshots: Iterable[Snapshot]) -> Iterator[tuple[Snapshot, Snapshot]]:
    return pairwise(snapshots)
