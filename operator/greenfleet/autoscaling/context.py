"""The decision context: what every recommender and every constraint sees of one tick with complete metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .estimation import Capacity
from .model import Adjustment, DecisionReason, Sample, ScalingSpec
from .state import State
from .tuning import Tuning
from .validation import Observation


@dataclass(frozen=True, slots=True)
class DeadlineDemand:
    """The backlog that decided, and what it asked for."""

    messages: float
    """Must start."""
    within_seconds: float
    workers: int
    late: bool
    """The objective is out of reach for its oldest message, whatever is done now."""


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """Inputs and derived quantities."""

    spec: ScalingSpec
    sample: Sample
    observation: Observation
    state: State
    """After this tick's estimates."""
    now: float
    tuning: Tuning
    worker: Capacity
    rate: float
    """Arrivals per second."""
    burst: float
    """Messages of a burst that is still young."""
    demand: DeadlineDemand | None
    rate_workers: int
    need: int
    """Workers that the load asks for, without the one that waits for the cooldown."""
    deferred: int
    """Workers that `rate` asks for beyond `need`: what waits can wait a little longer without them."""
    down_window_seconds: float

    @property
    def current(self) -> int:
        return self.sample.replicas

    @property
    def worker_rate(self) -> float:
        """Tasks per second of one worker with all its green threads."""
        return self.worker.rate(self.worker.safe_threads)

    @property
    def first_window_ends_at(self) -> float:
        """Until then there is no past to look back on: after a restart, and after missing metrics."""
        since = self.state.complete_since
        return (self.now if since is None else since) + self.down_window_seconds


Constraint = Callable[[DecisionContext, int], Adjustment | None]
"""From the workers recommended so far to an Adjustment; None where there is nothing to adjust."""


def workers_adjustment(
    reason: DecisionReason, before: int, after: int, text: str, until: float | None = None
) -> Adjustment:
    return Adjustment(reason, "workers", before, after, text, until)


def threads_adjustment(
    reason: DecisionReason, before: int, after: int, text: str, until: float | None = None
) -> Adjustment:
    return Adjustment(reason, "threads", before, after, text, until)
