"""What recommenders and constraints see of one tick: `Tick` always, the decision context with complete metrics."""

from __future__ import annotations

from dataclasses import dataclass

from .estimation.service import Capacity
from .model import Sample, ScalingSpec
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
class Tick:
    """What is known even while metrics are missing."""

    spec: ScalingSpec
    sample: Sample
    now: float

    @property
    def current(self) -> int:
        return self.sample.replicas


@dataclass(frozen=True, slots=True)
class DecisionContext(Tick):
    """Inputs and derived quantities."""

    observation: Observation
    state: State
    """After this tick's estimates."""
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
