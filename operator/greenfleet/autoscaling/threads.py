"""Green threads in each worker: the first dimension to move, because it moves in a second and costs no pod."""

from __future__ import annotations

from math import ceil, sqrt

from .capacity import Capacity
from .validation import Observation

UTILISATION = 0.8
"""At which a steady stream is staffed."""
SQUARE_ROOTS = 2.0
"""Standard deviations of the Poisson concurrency λS kept free: square-root staffing (Halfin and Whitt, 1981), ~2 % wait."""
LOWER_WINDOW_SECONDS = 60.0
"""Threads rise at once and fall to the maximum of the last minute: an idle green thread costs some kilobytes."""


def anything_waits(view: Observation, rate: float) -> bool:
    """More than half a second of arrivals waits, or nearly every green thread is taken."""
    limit = sum(worker.threads_limit for worker in view.workers)
    working = sum(worker.threads_busy for worker in view.workers)
    return view.unstarted > 1 + 0.5 * rate or (limit > 0 and working >= 0.9 * limit)


def steady_need(rate: float, worker: Capacity, workers: int) -> int:
    """Green threads per worker for a stream of `rate` tasks per second: Little's law and square-root staffing."""
    concurrency = rate * worker.runtime_seconds
    return ceil((concurrency / UTILISATION + SQUARE_ROOTS * sqrt(concurrency)) / max(1, workers))
