"""What is remembered about one pool from tick to tick: immutable, bounded, and opaque to the caller, who hands it back.

A restart begins with `initial_state`, so nothing in here may be needed for safety; what is expensive to learn again is
in `Learned`, which the API keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from .estimation import Estimates
from .estimation.concurrency_limit import ConcurrencyLimit
from .estimation.service import Service
from .model import Learned
from .tuning import DEFAULT


@dataclass(frozen=True, slots=True)
class Need:
    """What the load asked for at one tick, in one dimension."""

    at: float
    value: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the Deployment's replicas that was seen, as the HPA keeps its scale events."""

    at: float
    delta: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is remembered about one pool."""

    estimates: Estimates
    idle_since: float | None = None
    high_needs: tuple[Need, ...] = ()
    """Workers that the load asked for, as a falling sequence: enough to know the maximum of any recent window."""
    low_needs: tuple[Need, ...] = ()
    """The same as a rising sequence, for the minimum."""
    high_threads: tuple[Need, ...] = ()
    """Green threads that the load asked for, as a falling sequence."""
    deferred_need: int = 0
    """Workers that the rate needs, the deferred ones included: without metrics nobody sees how long they can wait."""
    changes: tuple[Change, ...] = ()
    replicas: int | None = None
    threads: int | None = None


def initial_state(learned: Learned, now: float) -> State:
    """The memory of a pool that has just been met, with what an earlier life had learned."""
    ceiling = inf if learned.safe_threads is None else learned.safe_threads / DEFAULT.utilisation
    limit = ConcurrencyLimit(ceiling=ceiling, moved_at=now)
    return State(Estimates(now, service=Service.restored(learned), limit=limit))
