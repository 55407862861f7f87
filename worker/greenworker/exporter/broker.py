"""What the exporter asks of a broker, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from greenworker.brokers.dead_letters import DeadLetter

TIMEOUT_SECONDS = 5.0
"""For connecting and for every answer."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue as the resource names it."""

    name: str
    key_prefix: str = ""
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages, and consumers. None where the broker cannot tell."""

    ready: int
    unacked: int | None = None
    consumers: int | None = None
    dead: int | None = None
    """Dead letters of the queue."""
    missing: bool = False
    """Whether the broker says that it has no such queue. Redis cannot tell one from an empty queue."""


class Letters(Protocol):
    """The dead letters of one queue."""

    def each(self) -> Iterator[DeadLetter]:
        """All of them, oldest first. They stay."""

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        """Requeue or drop the ones of a task id, or all with an empty one; those that were."""


class Broker(Protocol):
    """An open connection."""

    at_once: int
    """How many queues are asked for with one question."""

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """The depth of every queue; 0 for one that the broker does not know, none for one that it has and cannot reach.
        Raises on any other doubt.
        """

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """Where `depths` does not ask for dead letters itself: count those of *queues* from now on, beside everything
        else. Later depths have them.
        """

    def dead_letters(self, queue: Queue) -> Letters:
        """The dead letters of *queue*."""

    def close(self) -> None:
        """Let go; never raises."""
