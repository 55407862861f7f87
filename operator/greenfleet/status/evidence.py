"""What workers and exporters report of a pool besides its load, and routing by evidence: a task that was caught
blocking the hub often enough moves to the prefork companion. Nothing here knows the API server.

Seeing a task block once proves little (a page fault, a cold import). What counts is being seen in several separate
moments within a short time. A route then stays: the task no longer blocks because it was moved, so that calm is no
evidence against it. A human undoes it with an annotation of the pool, and turning `autoRoute` off undoes all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from greenfleet.manifests.names import PREFIX, Role
from greenfleet.prometheus.collect import Worker

MOMENTS = 3
"""Separate catches that make a route."""
MOMENT_SECONDS = 10.0
"""Catches closer together than this are one moment."""
WINDOW_SECONDS = 600.0
"""Catches older than this are forgotten."""
MOST_REMEMBERED = 2_000
"""Entries of each kind for one pool. A worker tells a hundred names of tasks apart."""
Key = TypeVar("Key")
MOST_ROUTES, LONGEST_TASK = 100, 300
"""What `status.blockingTasks` has room for."""
MOST_EXEMPT = 1_000
EXEMPT_ANNOTATION = f"{PREFIX}/keep-on-eventlet"
"""On a pool: names of tasks, comma separated, that evidence must not move."""
DEAD_TASKS = 20
"""Names of dead-lettered tasks that are remembered of one pool."""
_BLOCKED_NOISE_SECONDS = 0.05
_NOT_TASKS = frozenset({"", "unknown", "other"})


def block_detections(moments: Sequence[float], now: float) -> tuple[float, ...]:
    """The moments at which a task was seen blocking, with one at `now`."""
    recent = tuple(moment for moment in moments if now - moment <= WINDOW_SECONDS)
    if recent and now - recent[-1] < MOMENT_SECONDS:
        return recent
    return (*recent[-MOMENTS:], now)


def forget(known: dict[Key, Any], seen_at: Mapping[Key, float], now: float) -> None:
    """Drops what was last seen longer than `WINDOW_SECONDS` ago, which is longer than any condition remembers, and the
    oldest of what exceeds `MOST_REMEMBERED`. Times are Unix times.
    """
    if len(known) > MOST_REMEMBERED:
        for key in sorted(known, key=seen_at.__getitem__)[: len(known) - MOST_REMEMBERED]:
            del known[key]
    for key in [key for key in known if now - seen_at[key] > WINDOW_SECONDS]:
        del known[key]


def routes(
    before: Iterable[str], detections: Mapping[str, Sequence[float]], exempt: Iterable[str], now: float
) -> tuple[str, ...]:
    """Tasks that run in prefork workers because of evidence, sorted."""
    proven = {
        task
        for task, moments in detections.items()
        if task not in _NOT_TASKS and sum(now - moment <= WINDOW_SECONDS for moment in moments) >= MOMENTS
    }
    # Those that are routed stay, whatever is caught after them.
    kept, spared = dict.fromkeys([*before, *sorted(proven)]), set(exempt)
    known = [task for task in kept if task not in spared and len(task) <= LONGEST_TASK]
    return tuple(sorted(known[:MOST_ROUTES]))


def exempt_tasks(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks that a human wants to keep on Eventlet: the first `MOST_EXEMPT` of them, for it is asked at every tick."""
    names = annotations.get(EXEMPT_ANNOTATION, "").split(",", MOST_EXEMPT)[:MOST_EXEMPT]
    return tuple(name.strip() for name in names if name.strip())


@dataclass(slots=True)
class Evidence:
    """What was reported of one pool. Written by its own methods alone, which the scaling loop calls."""

    blocked: dict[str, float] = field(default_factory=dict)
    """Unix time at which each task was last seen blocking the hub."""
    blocked_seconds: dict[tuple[Role, str, str], float] = field(default_factory=dict)
    """Counter values by (role, worker, task), to see increments."""
    detections: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Moments at which each task was seen blocking, as evidence for routing."""
    risks: dict[tuple[str, str], float] = field(default_factory=dict)
    """Unix time at which workers last said that something endangers tasks, by (reason, task)."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """Dead letters by queue, as the exporter last said."""
    dead_tasks: frozenset[str] = frozenset()
    """Tasks that workers have moved there."""

    def hear(self, role: Role, workers: Iterable[Worker], now: float) -> None:
        """Takes in what the workers of a role say. *now* is Unix time."""
        for worker in workers:
            self.risks.update(dict.fromkeys(worker.risks, now))
            for task, seconds in worker.blocked_seconds_by_task.items():
                key = (role, worker.sample.pod, task)
                if seconds - self.blocked_seconds.get(key, seconds) > _BLOCKED_NOISE_SECONDS:
                    self.blocked[task] = now
                    self.detections[task] = block_detections(self.detections.get(task, ()), now)
                self.blocked_seconds[key] = seconds

    def hear_of_dead_letters(self, counts: Mapping[str, int | None], tasks: Iterable[str]) -> bool:
        """Takes in the dead letters of each queue of the pool and their tasks; True if it is news. None is silence, and
        changes nothing.
        """
        before = (self.dead_letters, self.dead_tasks)
        now = {queue: self.dead_letters.get(queue, 0) if count is None else count for queue, count in counts.items()}
        self.dead_letters = {queue: count for queue, count in now.items() if count}
        known = self.dead_tasks | frozenset(tasks) if self.dead_letters else frozenset()
        self.dead_tasks = frozenset(sorted(known)[:DEAD_TASKS])
        return (self.dead_letters, self.dead_tasks) != before

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
