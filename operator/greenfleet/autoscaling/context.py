"""The decision context: what every recommender and every constraint sees of one tick with complete metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .estimation.service import Capacity
from .model import Adjustment, Sample, ScalingSpec
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
    demand: DeadlineDemand | None
    rate_workers: int
    need: int
    """Workers that the load asks for, without the one that waits for the cooldown."""
    deferred: int
    """Workers that `rate` asks for beyond `need`: what waits can wait a little longer without them."""

    @property
    def current(self) -> int:
        return self.sample.replicas


Constraint = Callable[[DecisionContext, int], Adjustment | None]
"""From the workers recommended so far to an Adjustment; None where there is nothing to adjust."""
