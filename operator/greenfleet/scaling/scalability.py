"""Did more of us bring more throughput? If not, the limit is elsewhere, and more of us only makes it worse.

A slow downstream inflates the run time S in proportion to concurrency while throughput stands still (Little's law: X = A/S).
That looks like "more workers needed" to any formula in S, so the law runs the experiment instead: it compares the saturated
fleet with itself before its last growth, and stops growing while growth buys nothing.
"""

from __future__ import annotations

from dataclasses import replace

from .capacity import Capacity
from .knowledge import View
from .learning import Progress
from .state import Point, Scalability

GROWN = 1.4
"""Concurrency must have grown so much before a comparison means anything."""
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
    if scalability.frozen_until is not None and now >= scalability.frozen_until:
        scalability = replace(scalability, frozen_until=None, points=())
    limit = sum(sample.threads_limit for sample in view.workers)
    working = sum(sample.threads_busy for sample in view.workers)
    saturated = view.workers and working >= 0.8 * limit and view.unstarted > 0 and progress.finished > 0
    cpu_bound = progress.cores_per_worker >= 0.8 * worker.cores or progress.hub_utilisation >= 0.9
    if progress.seconds <= 0:
        return scalability
    if not saturated or cpu_bound or progress.blocked:
        calm = scalability.frozen_until is None and not saturated
        return replace(scalability, points=(), backoff_seconds=30.0 if calm else scalability.backoff_seconds)
    recent = tuple(p for p in scalability.points if p.at > now - _REMEMBERED_SECONDS - 4 * worker.runtime_seconds)
    runtime = (
        progress.runtime_sum_seconds / progress.runtime_count if progress.runtime_count else worker.runtime_seconds
    )
    point = Point(now, working, throughput, runtime)
    points = (*recent, point)[-_POINTS:]
    scalability = replace(scalability, points=points)
    failed = _failed(points, worker.runtime_seconds, now)
    if failed is None or scalability.frozen_until is not None:
        return scalability
    return replace(
        scalability,
        frozen_until=now + scalability.backoff_seconds,
        backoff_seconds=min(_MOST_BACKOFF_SECONDS, 2 * scalability.backoff_seconds),
        gain=failed,
    )


def _failed(points: tuple[Point, ...], runtime_seconds: float, now: float) -> tuple[float, float] | None:
    """(concurrency, throughput) of now over before, if growth brought nothing and S grew with concurrency instead."""
    last = points[-1]
    settled = now - max(10.0, 2 * runtime_seconds)
    after = [point for point in points if point.at >= settled]
    if any(point.concurrency < last.concurrency / 1.1 for point in after) or points[0].at >= settled:
        return None
    for before in points:
        if before.at >= settled or before.concurrency <= 0 or before.throughput <= 0 or before.runtime_seconds <= 0:
            continue
        grown = last.concurrency / before.concurrency
        if grown < GROWN:
            continue
        gained = last.throughput / before.throughput
        slower = last.runtime_seconds / before.runtime_seconds
        if gained - 1 < GAIN * (grown - 1) and 0.7 * grown <= slower <= 1.4 * grown:
            return grown, gained
    return None
