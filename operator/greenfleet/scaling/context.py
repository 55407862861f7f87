"""What every small policy of the law sees: one immutable picture of the tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .capacity import Capacity
from .knowledge import View
from .state import State
from .types import Limit, Sample, ScalingSpec, Step
from .workers import Due


@dataclass(frozen=True, slots=True)
class Context:
    """Inputs and derived quantities of one tick with complete knowledge."""

    spec: ScalingSpec
    sample: Sample
    view: View
    state: State
    """The memory after this tick's learning."""
    now: float
    worker: Capacity
    rate: float
    """Arrivals per second."""
    surge: float
    """Messages of a burst that is still young."""
    due: Due | None
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


WorkerPolicy = Callable[[Context, int], Step | None]
"""From the workers wanted so far to a step that changes or holds them; None where the policy has nothing to say."""


def workers_step(limit: Limit, before: int, after: int, text: str, until: float | None = None) -> Step:
    return Step(limit=limit, dimension="workers", before=before, after=after, text=text, until=until)


def threads_step(limit: Limit, before: int, after: int, text: str, until: float | None = None) -> Step:
    return Step(limit=limit, dimension="threads", before=before, after=after, text=text, until=until)
