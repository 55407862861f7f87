"""What was seen of one fleet during one trace, second by second, and what its ledger says; as JSON files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Second:
    """A fleet at one moment; seconds from the trace's beginning."""

    at: float
    backlog: int
    """Messages in the queue that no worker has."""
    pods: int
    """Worker pods that exist, starting and draining ones included."""
    ready: int
    replicas: int
    """Of the Deployment."""
    threads: int
    """Green threads of the Ready workers."""


@dataclass(frozen=True, slots=True)
class Task:
    """One message in the ledger; seconds from the trace's beginning."""

    published: float
    started: float | None
    """Its first start; None: never."""
    starts: int
    ends: int


@dataclass(frozen=True, slots=True)
class Record:
    """One autoscaler on one trace, live."""

    trace: str
    label: str
    autoscaler: str
    seconds: tuple[Second, ...]
    tasks: tuple[Task, ...]
    startups: tuple[float, ...]
    """Seconds from a pod's creation to Ready."""
    queries: float | None
    """Prometheus queries per second of the autoscaler."""
    writes: dict[str, int] = field(default_factory=dict)
    """Writes to the API server in the measured time, by verb and resource."""
    drained_at: float | None = None
    """When the last message had been executed; None: messages were missing when the bench stopped waiting."""


def tasks(published: Sequence[float], lines: Iterable[str], began: float) -> tuple[Task, ...]:
    """The ledger's lines (`s number published started`, `e number ended`) held against what was published."""
    first: dict[int, float] = {}
    starts: Counter[int] = Counter()
    ends: Counter[int] = Counter()
    for line in lines:
        kind, number, *rest = line.split()
        if kind == "s":
            starts[int(number)] += 1
            at = float(rest[1]) - began
            first[int(number)] = min(at, first.get(int(number), at))
        else:
            ends[int(number)] += 1
    return tuple(
        Task(round(at, 3), None if number not in first else round(first[number], 3), starts[number], ends[number])
        for number, at in enumerate(published)
    )


def write(record: Record, path: Path) -> None:
    """Whole or not at all, so that an interrupted bench can go on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = asdict(record)
    document["seconds"] = [list(asdict(second).values()) for second in record.seconds]
    document["tasks"] = [list(asdict(task).values()) for task in record.tasks]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document) + "\n", encoding="utf-8")
    draft.rename(path)


def read(path: Path) -> Record:
    """The inverse of `write`."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    document["seconds"] = tuple(Second(*row) for row in document["seconds"])
    document["tasks"] = tuple(Task(*row) for row in document["tasks"])
    document["startups"] = tuple(document["startups"])
    return Record(**document)
