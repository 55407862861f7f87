"""Did more of us bring more throughput? If not, the limit is elsewhere, and more of us only makes it worse.

A slow downstream inflates the run time S in proportion to concurrency while throughput stands still (Little's law: X = A/S).
That looks like "more workers needed" to any formula in S, so the law runs the experiment instead: it compares the saturated
fleet with itself before its last growth, and goes back and stays there while growth buys nothing. Going back is the second
half of the experiment: throughput that falls with it proves that the tasks themselves became slower, and lifts the freeze.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from .capacity import Capacity
from .knowledge import View
from .learning import Progress
from .state import Point, Scalability

GROWN = 1.4
"""Concurrency must have grown so much before a comparison means anything."""
CPU_BOUND = 0.9
"""Of a core or of the hub's time: then more green threads bring nothing for a reason of our own, and more workers do."""
KEPT = 0.85
"""Of the throughput, which a retreat to the concurrency before must leave; tasks that became slower by themselves lose more."""
REFUTED_SECONDS = 120.0
PROBE = 1.5
"""How far the fleet may grow after a freeze, to find out whether growth brings anything again."""
GAIN = 0.15
"""The least part of the growth that must come back as throughput."""
_REMEMBERED_SECONDS = 60.0
_MOST_BACKOFF_SECONDS = 600.0
_POINTS = 32


def update(
    scalability: Scalability,
    view: View,
    progress: Progress,
    *,
    throughput: float,
    worker: Capacity,
    now: float,
) -> Scalability:
    """The experiment after one more interval."""
    if progress.seconds <= 0:
        return scalability
    if scalability.frozen_until is not None and now >= scalability.frozen_until:
        scalability = replace(scalability, frozen_until=None, frozen=None, probing=True, points=())
    limit = sum(sample.threads_limit for sample in view.workers)
    working = sum(sample.threads_busy for sample in view.workers)
    saturated = limit > 0 and working >= 0.8 * limit and view.unstarted > 2 * throughput and progress.finished > 0
    cpu_bound = max(progress.cores_per_worker / worker.cores, progress.hub_utilisation) >= CPU_BOUND
    if not saturated and view.unstarted <= throughput:
        return Scalability(refuted_until=scalability.refuted_until)
    if not saturated or cpu_bound or progress.blocked:
        return scalability  # says nothing about the downstream
    recent = tuple(p for p in scalability.points if p.at > now - _REMEMBERED_SECONDS - 4 * worker.runtime_seconds)
    runtime = (
        progress.runtime_sum_seconds / progress.runtime_count if progress.runtime_count else worker.runtime_seconds
    )
    points = (*recent, Point(now, working, throughput, runtime))[-_POINTS:]
    scalability = replace(scalability, points=points)
    if _refuted(scalability, points[-1], limit):
        return Scalability(refuted_until=now + REFUTED_SECONDS)
    return _judged(scalability, len(view.serving), worker.runtime_seconds, now)


def _judged(scalability: Scalability, serving: int, runtime_seconds: float, now: float) -> Scalability:
    verdict = _verdict(scalability.points, runtime_seconds, now)
    if verdict is None or scalability.frozen_until is not None or now < scalability.refuted_until:
        return scalability
    if not verdict.failed:
        return replace(scalability, probing=False)
    return replace(
        scalability,
        frozen_until=now + scalability.backoff_seconds,
        frozen=scalability.points[-1],
        probing=False,
        frozen_workers=serving,
        frozen_threads=ceil(verdict.concurrency / max(1, serving)),
        backoff_seconds=min(_MOST_BACKOFF_SECONDS, 2 * scalability.backoff_seconds),
        gain=(verdict.grown, verdict.gained),
    )


def _refuted(scalability: Scalability, last: Point, limit: float) -> bool:
    """Whether the retreat to the concurrency before the growth took throughput with it: then the downstream was not full."""
    frozen = scalability.frozen
    if frozen is None or last.concurrency > 1.05 * limit or last.concurrency > 0.85 * frozen.concurrency:
        return False
    return last.throughput < KEPT * frozen.throughput


@dataclass(frozen=True, slots=True)
class Verdict:
    """Concurrency and throughput of now over before."""

    concurrency: float
    """Before."""
    grown: float
    gained: float
    failed: bool


def _verdict(points: tuple[Point, ...], runtime_seconds: float, now: float) -> Verdict | None:
    """What the last growth brought: failed if throughput stood still while S grew with concurrency.

    Compared are the last moments before the growth and now, after everything that ran then has ended. Older moments do not
    count: tasks that became slower by themselves would look like a growth that brought nothing.
    """
    settled = now - max(10.0, 2 * runtime_seconds)
    after = [point for point in points if point.at >= settled]
    low = min(point.concurrency for point in after)
    before = [point for point in points if point.at < settled and point.concurrency * GROWN <= low][-3:]
    if not before or now - after[0].at < 0.7 * (now - settled):
        return None
    concurrency = sum(point.concurrency for point in before) / len(before)
    throughput = sum(point.throughput for point in before) / len(before)
    runtime = sum(point.runtime_seconds for point in before) / len(before)
    if concurrency <= 0 or throughput <= 0 or runtime <= 0:
        return None
    last = points[-1]
    grown, most = low / concurrency, last.concurrency / concurrency
    gained, slower = last.throughput / throughput, last.runtime_seconds / runtime
    return Verdict(concurrency, grown, gained, gained - 1 < GAIN * (grown - 1) and 0.7 * grown <= slower <= 1.4 * most)
