"""What every small policy of the autoscaler sees: one immutable context of the tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .capacity import Capacity
from .model import Adjustment, DecisionReason, Sample, ScalingSpec
from .state import State
from .tuning import Tuning
from .validation import Observation
from .workers import DeadlineDemand


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """Inputs and derived quantities of one tick with complete metrics."""

    spec: ScalingSpec
    sample: Sample
    view: Observation
    state: State
    """The memory after this tick's learning."""
    now: float
    tuning: Tuning
    worker: Capacity
    rate: float
    """Arrivals per second."""
    burst: float
    """Messages of a burst that is still young."""
    due: DeadlineDemand | None
    rate_workers: int
    need: int
    """Workers that the load asks for, without the one that waits for the cooldown."""
    missing: int
    """Workers that `rate` asks for beyond `need`: what waits can wait a little longer without them."""
    down_window_seconds: float

    @property
    def current(self) -> int:
        return self.sample.replicas

    @property
    def first_window_ends_at(self) -> float:
        """Until then there is no past to look back on: after a restart, and after blindness."""
        since = self.state.sighted_since
        return (self.now if since is None else since) + self.down_window_seconds

    @property
    def in_first_window(self) -> bool:
        return self.now < self.first_window_ends_at


Constraint = Callable[[DecisionContext, int], Adjustment | None]
"""From the workers wanted so far to a step that changes or holds them; None where the policy has nothing to say."""


def workers_adjustment(
    reason: DecisionReason, before: int, after: int, text: str, until: float | None = None
) -> Adjustment:
    return Adjustment(reason=reason, dimension="workers", before=before, after=after, text=text, until=until)


def threads_adjustment(
    reason: DecisionReason, before: int, after: int, text: str, until: float | None = None
) -> Adjustment:
    return Adjustment(reason=reason, dimension="threads", before=before, after=after, text=text, until=until)
