"""What a worker owes its broker for each message that it holds: one protocol, one implementation for each kind of
broker.

A consumer gets its settlement when it is made and passes it on. What becomes of a message is decided nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from greenworker.brokers.suspicion import Suspicion
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.accounting import Accounting
from greenworker.monitoring.task_risks import TaskRisks


class Attempts(Protocol):
    """Where the attempts of a message are written, so that they survive this process."""

    def so_far(self, message: Any, known: Suspicion) -> Suspicion:
        """*known* with the attempts that were begun and never ended. Raises the broker's errors."""

    def begin(self, message: Any, after: Suspicion) -> None:
        """An attempt begins. Returns when the broker has it. Raises the broker's errors."""

    def end(self, message: Any) -> None:
        """The process lives: the attempts are forgotten. Raises the broker's errors."""

    def requeue(self, message: Any, suspicion: Suspicion) -> bool:
        """After a child of the companion died of it: back to its queue with this record; False if the caller is to
        requeue it.
        """

    def dead_letter(self, message: Any, task: str, task_id: str, deaths: int) -> str:
        """Make the message a dead letter, in one step or in two that lose nothing; the queue that it came from. Raises
        the broker's errors.
        """


class Holder(Protocol):
    """The consumer, as far as a settlement asks it what it holds."""

    def unstarted_tags(self, held: Iterable[str]) -> list[str]:
        """Those of the delivery tags *held* whose tasks do not run, in the same order."""

    def held_messages(self) -> list[Any]:
        """What was delivered and is not settled, as far as this consumer knows of it."""


class Settlement(Protocol):
    """Of one consumer. Messages are kombu's. Belongs to the thread that runs the consumer."""

    @property
    def attempts(self) -> Attempts | None:
        """None without a cap on deaths (`GREENWORKER_MAX_DELIVERIES`)."""

    @property
    def outlives_connection(self) -> bool:
        """Whether a task that runs through a lost connection can still be acknowledged. Else a message belongs to the
        connection that it came by.
        """

    @property
    def busy(self) -> bool:
        """Whether messages are on their way back."""

    def queue_of(self, message: Any) -> str:
        """The name of the queue that *message* came from; empty if nobody can say."""

    # what arrives

    def connected(self) -> None:
        """There is a (new) connection; messages arrive from now on. Never raises."""

    def count_redelivery(self, message: Any) -> bool:
        """Before *message* runs: note that it was delivered before. True if it was sent back for that, and is no longer
        here.
        """

    def check_delivery_limit(self, message: Any) -> None:
        """Warn if the broker drops *message* after a few more deliveries."""

    def refuse(self, message: Any, error: Exception) -> bool:
        """Celery raised *error* as it took *message*, which does not run. True if it is a dead letter now; False if the
        caller is to raise the error.
        """

    def stop_deliveries(self, consumer: Any) -> None:
        """In a drain: cancel kombu's *consumer*. Does not wait for the answer: another green thread reads the
        connection.
        """

    # what is done

    def acknowledge_now(self, message: Any) -> None:
        """Returns when an acknowledgement of *message* that was given before is on the broker. Raises the broker's
        errors.
        """

    def flush(self) -> None:
        """Send the acknowledgements that wait to travel together. What the broker does not take is sent again later."""

    # what goes back or on

    def return_messages(self, messages: Sequence[Any]) -> None:
        """In a drain: *messages* did not start here. Returns when the broker has them. Raises the broker's errors."""

    def return_soon(self, message: Any) -> None:
        """`return_messages` for the loop that has read *message* and may not wait."""

    def return_unstarted(self, holder: Holder, messages: Sequence[Any], kept: Sequence[Any]) -> int:
        """In a drain: everything that has not started, but *kept*. *messages*: what the consumer knows of it. Returns
        how many went back. Raises the broker's errors.
        """

    def requeue_started(self, messages: Sequence[Any]) -> None:
        """Tasks that are about to be killed: back to their queue, marked as redelivered. Raises the broker's errors."""

    def declare(self, queue: Any) -> None:
        """Make sure that kombu's *queue*, a companion's, exists. Raises `MisconfiguredError`, or the broker's
        errors.
        """

    def forward(self, message: Any, task: str, queue: Any, otherwise: Callable[[MisconfiguredError], None]) -> None:
        """Send *message* on to *queue*, now or soon; *otherwise* is called if the broker will not have the queue."""

    # the end

    def connection_lost(self, holder: Holder) -> None:
        """What has not started goes back as soon as the broker answers."""

    def close(self) -> None:
        """The worker ends: the last acknowledgements. Never raises the broker's errors."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a settlement needs of its consumer and its process."""

    app: Any
    accounting: Accounting
    task_risks: TaskRisks
    max_deliveries: int
    draining: Callable[[], bool]
    consumed_from: Callable[[Any], str]
    """A message's queue by its consumer tag; empty if the tag is not known."""
    connection_errors: Callable[[], Any]
    within: Callable[[float, Callable[[], Any]], Any]
    """Calls something for so many seconds at most."""
