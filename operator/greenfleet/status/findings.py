"""What workers and exporters report of a pool besides its load. Nothing here knows the API server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from greenfleet.manifests.names import Role
from greenfleet.prometheus.collect import Worker
from greenfleet.status.auto_routing import WINDOW_SECONDS, block_detections

MOST_REMEMBERED = 2_000
"""Entries of each kind for one pool. A worker tells a hundred names of tasks apart."""
DEAD_TASKS = 20
"""Names of dead-lettered tasks that are remembered of one pool."""
_BLOCKED_NOISE_SECONDS = 0.05
Key = TypeVar("Key")


def forget(known: dict[Key, Any], seen_at: Mapping[Key, float], now: float) -> None:
    """Drops what was last seen longer than `WINDOW_SECONDS` ago, which is longer than any condition remembers, and the
    oldest of what exceeds `MOST_REMEMBERED`. Times are Unix times.
    """
    if len(known) > MOST_REMEMBERED:
        for key in sorted(known, key=seen_at.__getitem__)[: len(known) - MOST_REMEMBERED]:
            del known[key]
    for key in [key for key in known if now - seen_at[key] > WINDOW_SECONDS]:
        del known[key]


@dataclass(slots=True)
class Findings:
    """What was reported of one pool. Written by its own methods alone, which the scaling loop calls."""

    blocked: dict[str, float] = field(default_factory=dict)
    """Unix time at which each task was last seen blocking the hub."""
    blocked_seconds: dict[tuple[Role, str, str], float] = field(default_factory=dict)
    """Counter values by (role, worker, task), to see increments."""
    detections: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Moments at which each task was seen blocking, for auto-routing."""
    risks: dict[tuple[str, str], float] = field(default_factory=dict)
    """Unix time at which workers last reported that something endangers tasks, by (reason, task)."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """Dead letters by queue, as the exporter last reported."""
    dead_tasks: frozenset[str] = frozenset()
    """Tasks that workers have moved there."""
    speaks_for_others: bool = False
    """Whether pods of the pool's namespace export series about pools or brokers of other namespaces."""

    broker_error: str = ""
    """The kind of error that keeps the exporter from the broker, as it last reported."""
    broker_error_since: float = 0.0
    """Unix time since which that is so."""

    missing_queues: tuple[str, ...] = ()
    """Queues of the spec that the broker does not have, in order."""

    def add_workers(self, role: Role, workers: Iterable[Worker], now: float) -> None:
        """Adds what the workers of a role report. *now* is Unix time."""
        for worker in workers:
            self.risks.update(dict.fromkeys(worker.risks, now))
            for task, seconds in worker.blocked_seconds_by_task.items():
                key = (role, worker.sample.pod, task)
                if seconds - self.blocked_seconds.get(key, seconds) > _BLOCKED_NOISE_SECONDS:
                    self.blocked[task] = now
                    self.detections[task] = block_detections(self.detections.get(task, ()), now)
                self.blocked_seconds[key] = seconds

    def set_dead_letters(self, counts: Mapping[str, int | None], tasks: Iterable[str]) -> bool:
        """The dead letters of each queue of the pool and their tasks; True if it is news. A count of None changes
        nothing: nobody says how many there are.
        """
        before = (self.dead_letters, self.dead_tasks)
        now = {queue: self.dead_letters.get(queue, 0) if count is None else count for queue, count in counts.items()}
        self.dead_letters = {queue: count for queue, count in now.items() if count}
        known = self.dead_tasks | frozenset(tasks) if self.dead_letters else frozenset()
        self.dead_tasks = frozenset(sorted(known)[:DEAD_TASKS])
        return (self.dead_letters, self.dead_tasks) != before

    def set_broker_error(self, kind: str | None, now: float) -> bool:
        """True if it is news. None changes nothing: nobody says how it is. *now* is Unix time."""
        if kind is None or kind == self.broker_error:
            return False
        self.broker_error, self.broker_error_since = kind, now
        return True

    def set_missing_queues(self, queues: Iterable[str] | None) -> bool:
        """True if it is news. None changes nothing: nobody says what there is."""
        now = self.missing_queues if queues is None else tuple(sorted(queues))
        before, self.missing_queues = self.missing_queues, now
        return before != now

    def set_speaks_for_others(self, speaks: bool) -> bool:
        """True if it is news."""
        before, self.speaks_for_others = self.speaks_for_others, speaks
        return before != speaks

    def forget_counters(self) -> None:
        """For a new leader: what was counted in between is not known."""
        self.blocked_seconds.clear()

    def forget_old(self, role: Role, pods: Collection[str], now: float) -> None:
        """Drops what was counted of workers that are gone, and what is too long ago to matter. *pods*: those of a role
        that live; *now*: Unix time.
        """
        for key in [key for key in self.blocked_seconds if key[0] is role and key[1] not in pods]:
            del self.blocked_seconds[key]
        forget(self.blocked_seconds, dict.fromkeys(self.blocked_seconds, now), now)
        forget(self.blocked, self.blocked, now)
        forget(self.risks, self.risks, now)
        forget(self.detections, {task: moments[-1] for task, moments in self.detections.items()}, now)
