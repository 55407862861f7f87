"""The ledger: what was really done, written by the tasks themselves.

One `RPUSH` per execution is all that a task pays. Everything else (how many are done, lost or done twice, and how long
they waited) is worked out from these lines by whoever asks, so that no counter can disagree with the facts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis


class Execution(NamedTuple):
    """One execution of one task that came to its end."""

    task: str
    started_at: float
    """Unix time."""
    waited_seconds: float
    """From publishing to the start."""
    ran_seconds: float
    entries: int
    """Entries of the feed: the work's result."""

    def line(self) -> str:
        """As it is stored."""
        return f"{self.task} {self.started_at:.3f} {self.waited_seconds:.3f} {self.ran_seconds:.3f} {self.entries}"

    @classmethod
    def parse(cls, line: str) -> Execution:
        """The inverse of `line`."""
        task, started_at, waited, ran, entries = line.rsplit(" ", 4)
        return cls(task, float(started_at), float(waited), float(ran), int(entries))


@dataclass(frozen=True, slots=True)
class Account:
    """What a ledger says about one run."""

    sent: int
    done: int
    """Distinct tasks that were executed at least once."""
    lost: int
    """Sent, and never executed to the end."""
    twice: int
    """Tasks that were executed more than once."""
    unknown: int
    """Executed, but never sent: must be 0, or the ledger cannot be believed."""
    waited_p50_seconds: float
    waited_p99_seconds: float
    waited_max_seconds: float
    ran_mean_seconds: float
    waits: tuple[tuple[int, float, float], ...]
    """For each second in which tasks started: (Unix time, median wait, longest wait)."""


class Ledger:
    """The ledger in Redis: one list per run."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, *, connections: int = 16) -> Ledger:
        """A write takes a millisecond, so a few connections serve hundreds of green threads; a thread waits its
        turn.
        """
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=30, decode_responses=True
        )
        return cls(redis.Redis(connection_pool=pool))

    def record(self, run: str, execution: Execution) -> None:
        """Write one execution down."""
        self._client.rpush(_key(run), execution.line())

    def count(self, run: str) -> int:
        """How many executions there are: cheap enough to ask every second."""
        return int(self._client.llen(_key(run)))

    def executions(self, run: str) -> list[Execution]:
        """All of them, in the order in which they ended."""
        return [Execution.parse(line) for line in self._client.lrange(_key(run), 0, -1)]

    def forget(self, *, keep: str) -> None:
        """Drop the lines of every run but one."""
        for key in self._client.scan_iter(match=_key("*")):
            if key != _key(keep):
                self._client.delete(key)


def _key(run: str) -> str:
    return f"ledger:{run}"


def account(sent: Sequence[str], executions: Iterable[Execution]) -> Account:
    """Hold what was sent against what was done."""
    first: dict[str, Execution] = {}
    times: Counter[str] = Counter()
    for execution in executions:
        times[execution.task] += 1
        known = first.setdefault(execution.task, execution)
        if execution.started_at < known.started_at:
            first[execution.task] = execution
    known_tasks = set(sent)
    waited = sorted(execution.waited_seconds for execution in first.values())
    return Account(
        sent=len(known_tasks),
        done=len(first.keys() & known_tasks),
        lost=len(known_tasks - first.keys()),
        twice=sum(1 for count in times.values() if count > 1),
        unknown=len(first.keys() - known_tasks),
        waited_p50_seconds=quantile(waited, 0.5),
        waited_p99_seconds=quantile(waited, 0.99),
        waited_max_seconds=waited[-1] if waited else 0.0,
        ran_mean_seconds=sum(execution.ran_seconds for execution in first.values()) / max(1, len(first)),
        waits=_waits_by_second(first.values()),
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank quantile: a value that really occurred."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _waits_by_second(executions: Iterable[Execution]) -> tuple[tuple[int, float, float], ...]:
    seconds: dict[int, list[float]] = {}
    for execution in executions:
        seconds.setdefault(int(execution.started_at), []).append(execution.waited_seconds)
    return tuple((second, quantile(sorted(waits), 0.5), max(waits)) for second, waits in sorted(seconds.items()))
