"""Settles messages of RabbitMQ: by their connection, and without using up the deliveries of a quorum queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub
from greenworker.brokers.amqp.attempts import AmqpAttempts
from greenworker.brokers.amqp.forwarding import Publisher
from greenworker.brokers.amqp.returns import COUNT, Returns
from greenworker.brokers.dead_letters import REFUSED, rabbit_queue, refusal
from greenworker.brokers.settlement import Holder, Surroundings
from greenworker.brokers.suspicion import NONE, read
from greenworker.misconfigured import MisconfiguredError

logger = get_logger(__name__)


class AmqpSettlement:
    """See `settlement.Settlement`."""

    outlives_connection = False

    def __init__(self, surroundings: Surroundings) -> None:
        app = surroundings.app
        self._consumed_from = surroundings.consumed_from
        self._task_risks = surroundings.task_risks
        self._accounting = surroundings.accounting
        self._connection_errors = surroundings.connection_errors
        self._returns = Returns(app, self._consumed_from)
        self._late: list[Any] = []
        self._going_back = 0
        """Messages that are being returned now."""
        self._publisher = Publisher(
            app, surroundings.accounting, surroundings.draining, surroundings.connection_errors, self.return_messages
        )
        self.attempts: AmqpAttempts | None = None
        if surroundings.max_deliveries:
            self.attempts = AmqpAttempts(app, self.queue_of, surroundings.connection_errors, surroundings.within)

    @property
    def busy(self) -> bool:
        """Confirmations are awaited."""
        return bool(self._late or self._going_back or self._publisher.busy)

    def queue_of(self, message: Any) -> str:
        """By its consumer, else by its routing key."""
        return self._consumed_from(message) or str((message.delivery_info or {}).get("routing_key") or "")

    def connected(self) -> None:
        """Tell those who get what this worker held over the last connection that it lives."""
        if self.attempts is not None:
            self.attempts.survived()

    def count_redelivery(self, message: Any) -> bool:
        """See `AmqpAttempts.recount`."""
        return self.attempts is not None and self.attempts.recount(message)

    def check_delivery_limit(self, message: Any) -> None:
        """Quorum queues count."""
        if message.headers.get(COUNT):
            self._returns.look_at(message, self._task_risks)

    def refuse(self, message: Any, error: Exception) -> bool:
        """Else the worker would end, and the next one that gets the message."""
        if self.attempts is None or isinstance(error, (MemoryError, *self._connection_errors())):
            return False
        try:
            queue = self.attempts.refuse(message, refusal(REFUSED, error))
        except Exception as problem:
            logger.error("A message that cannot be taken could not be moved to the dead letters: %r", problem)
            return False
        self._accounting.dead_letters.add(1, queue, "", REFUSED)
        logger.error(
            "A message of %s cannot be taken and is among its dead letters now (queue %s): %r",
            queue, rabbit_queue(queue), error, exc_info=error,
        )  # fmt: skip
        return True

    def stop_deliveries(self, consumer: Any) -> None:
        """kombu would wait for the answer to each."""
        for tag in list(consumer._active_tags.values()):
            consumer.channel.basic_cancel(tag, nowait=True)
        consumer._active_tags.clear()

    def acknowledge_now(self, message: Any) -> None:
        """Our transport's acknowledgements wait for each other; kombu's own do not."""
        if hasattr(message.channel, "flush"):
            message.channel.flush()

    def flush(self) -> None:
        """Nothing: a channel that closes sends them."""

    def return_messages(self, messages: Sequence[Any]) -> None:
        """See `Returns.give_back`; those with a record of deaths as copies, so that nobody counts one more."""
        self._going_back += len(messages)
        try:
            # One may be acknowledged while the confirmation of another one's copy is waited for.
            left = [message for message in messages if not (message.acknowledged or self._sent_back(message))]
            self._returns.give_back(left)
        finally:
            self._going_back -= len(messages)

    def _sent_back(self, message: Any) -> bool:
        """Whoever gets a message that RabbitMQ has requeued counts a death. One that has a record goes back as a copy
        with it as it was.
        """
        known = getattr(message, "suspicion", NONE)
        suspicion = known if known != NONE else read(message.headers)
        return suspicion != NONE and self.attempts is not None and self.attempts.send_back(message, suspicion)

    def return_soon(self, message: Any) -> None:
        """In a green thread: the loop that reads the broker's confirmations may not wait for them."""
        self._late.append(message)
        if len(self._late) == 1:
            hub.spawn(self._return_late)

    def _return_late(self) -> None:
        late, self._late = self._late, []
        try:
            self.return_messages(late)
        except Exception as error:
            logger.warning("%d messages were not given back, the broker delivers them again: %r", len(late), error)

    def return_unstarted(self, holder: Holder, messages: Sequence[Any], kept: Sequence[Any]) -> int:
        """*messages* are all that was delivered and has not started."""
        left = [message for message in messages if not message.acknowledged]
        self.return_messages(left)
        return len(left)

    def requeue_started(self, messages: Sequence[Any]) -> None:
        """As what has not started: RabbitMQ marks them itself."""
        self.return_messages(messages)

    def declare(self, queue: Any) -> None:
        """See `Publisher.declare`."""
        self._publisher.declare(queue)

    def forward(self, message: Any, task: str, queue: Any, otherwise: Callable[[MisconfiguredError], None]) -> None:
        """Soon, together with others: publish, wait for the confirmation, then acknowledge."""
        self._publisher.add(message, task, queue, otherwise)

    def connection_lost(self, holder: Holder) -> None:
        """RabbitMQ delivers all of it again, to somebody who must not take that for a death of this process."""
        if self.attempts is not None:
            self.attempts.connection_lost([*holder.held_messages(), *self._publisher.messages()])

    def close(self) -> None:
        """Nothing: what is not settled goes back with its connection."""
