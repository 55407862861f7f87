"""Gives messages back to an AMQP broker without using up their deliveries.

A quorum queue counts how often a message was delivered in vain, and drops it (or dead-letters it) beyond its delivery
limit: 20 by default in RabbitMQ 4. Up to 4.2 everything counts that ends a delivery without an acknowledgement: reject
and nack with requeue, a closed channel, a lost connection (seen on 3.10 and 4.0). From 4.3 on ``basic.nack`` does not
count and ``basic.reject`` does (seen on 4.3.6). So there a message is nacked; on older brokers a copy of it is
published to the end of its queue, and the original is acknowledged when the broker has confirmed the copy. Who dies in
between has doubled a task, not lost it. Classic queues do not count, and keep the message at its place.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from amqp import spec
from celery.utils.log import get_logger

from greenworker.brokers.amqp.republish import Copy, Republisher
from greenworker.compat import queue_type
from greenworker.monitoring.task_risks import DELIVERY_LIMIT, TaskRisks
from greenworker.protocol import head_of

logger = get_logger(__name__)

COUNT = "x-delivery-count"
"""Written by quorum queues: from the second delivery on, or (3.x) always."""

EARLIER = "greenfleet-deliveries"
"""Header of a copy: deliveries that the messages before it had used up, so that a copy hides no failure."""

CONFIRM_SECONDS = 5.0
"""Of the ten that a drain has after its own time; what is not confirmed by then is returned as it always was."""

DEFAULT_LIMIT = 20
"""Of a quorum queue in RabbitMQ 4 without a limit of its own; 3.x has none."""

WARN_SHARE = 2
"""A message that has used up half of its deliveries is at risk."""


def version_of(server_properties: Mapping[str, Any]) -> tuple[int, int] | None:
    """Major and minor of a RabbitMQ; None for another product, and where it does not say."""
    if str(server_properties.get("product", "")).lower() != "rabbitmq":
        return None
    found = re.match(r"(\d+)\.(\d+)", str(server_properties.get("version", "")))
    return (int(found[1]), int(found[2])) if found else None


def nack_is_free(server_properties: Mapping[str, Any]) -> bool:
    """Whether ``basic.nack`` with requeue uses up no delivery there."""
    return (version_of(server_properties) or (0, 0)) >= (4, 3)


def limit_of(queue: Any, server_properties: Mapping[str, Any]) -> int | None:
    """The delivery limit of kombu's *queue* as far as it can be seen: a policy's cannot. None: no limit is known of."""
    arguments = getattr(queue, "queue_arguments", None) or {}
    own = arguments.get("x-delivery-limit")
    if own is None:
        return DEFAULT_LIMIT if (version_of(server_properties) or (0, 0)) >= (4, 0) else None
    return int(own) if isinstance(own, int) and own >= 0 else None


def deliveries(message: Any) -> int:
    """How many deliveries of *message*, and of those that it is a copy of, have ended in vain."""
    headers = message.headers or {}
    return sum(value for name in (COUNT, EARLIER) if isinstance(value := headers.get(name), int))


class Returns:
    """Of one consumer. `give_back` waits for the broker; the connection that the messages came from has to be read
    meanwhile, or idle.
    """

    def __init__(self, app: Any, queue_of: Callable[[Any], str]) -> None:
        self._app = app
        self._queue_of = queue_of
        self._counting: set[str] = set()
        self._one_at_a_time = Lock()

    def look_at(self, message: Any, task_risks: TaskRisks) -> None:
        """*message*, which was delivered before, has arrived. Its queue counts, though the app may not say so (a vhost
        has a default type).
        """
        queue = self._queue_of(message)
        self._counting.add(queue)
        limit = limit_of(self._app.amqp.queues.get(queue), server_properties(message.channel))
        used = (message.headers or {}).get(COUNT)
        if limit is None or not isinstance(used, int) or used * WARN_SHARE < limit:
            return
        task = head_of(message).task
        task_risks.found(
            DELIVERY_LIMIT, task,
            f"a message of {task} was delivered {used} times in vain, and queue {queue} drops it (or dead-letters "
            f"it) after {limit}: "
            "look for workers that die while they run it and for connections that break, or raise x-delivery-limit",
        )  # fmt: skip

    def counts(self, queue: str) -> bool:
        """Whether deliveries from this queue are counted."""
        if queue in self._counting:
            return True
        return queue_type(self._app.amqp.queues.get(queue)) == "quorum"

    def give_back(self, messages: list[Any]) -> None:
        """In a drain, on AMQP, without a record (see `AmqpSettlement.return_messages`): all of *messages*; those that
        are settled already are left alone. Raises the connection's errors.
        """
        with self._one_at_a_time:
            self._give_back([message for message in messages if not message.acknowledged])

    def _give_back(self, messages: list[Any]) -> None:
        copies: list[Copy] = []
        for message in messages:
            queue = self._queue_of(message)
            if not self.counts(queue):
                message.requeue()
            elif nack_is_free(server_properties(message.channel)):
                nack(message)
            else:
                earlier = deliveries(message)
                copies.append(Copy(message, queue, {EARLIER: earlier} if earlier else {}))
        if not copies:
            return
        republisher = Republisher(self._app)
        try:
            confirmed = republisher.publish(copies, CONFIRM_SECONDS)
        finally:
            republisher.close()
        for position, copy in enumerate(copies):
            if copy.message.acknowledged:
                continue
            if position in confirmed:
                copy.message.ack()
            else:
                copy.message.requeue()
        if len(confirmed) < len(copies):
            logger.warning(
                "%d messages were returned in a way that counts against their delivery limit",
                len(copies) - len(confirmed),
            )


def server_properties(channel: Any) -> Mapping[str, Any]:
    """What the broker says of itself; nothing where the connection is gone."""
    found = getattr(getattr(channel, "connection", None), "server_properties", None)
    return found if isinstance(found, Mapping) else {}


def nack(message: Any) -> None:
    """``basic.nack`` with requeue, which py-amqp does not know."""
    channel = message.channel
    unsettled = getattr(channel, "unsettled", None)
    if unsettled is not None:
        unsettled.settled(message.delivery_tag)
    channel.send_method(spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))
    message._state = "REQUEUED"
