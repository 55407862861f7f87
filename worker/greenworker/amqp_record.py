"""Attempts and dead letters on RabbitMQ, and a count of what was redelivered.

A classic queue says that a message was delivered before, not how often; a quorum queue counts, and drops what exceeds its
delivery limit, guilty or not. So a redelivered message is published again with its record in a header and then
acknowledged: its queue's own count begins anew. Attempts have to be on the broker before they begin, and who holds a
message cannot change it: they are the messages of a small queue of that one suspect's.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from threading import Lock
from time import monotonic, time
from types import SimpleNamespace
from typing import Any

from amqp.exceptions import NotFound
from celery.utils.log import get_logger

from greenworker.dead_letters import AT, DELIVERIES, QUEUE, REASON, WORKER_LOST, rabbit_queue
from greenworker.republish import Copy, publish
from greenworker.suspicion import HEADER, Suspicion, may_have_started, read

logger = get_logger(__name__)

ANSWER_SECONDS = 5.0
"""How long a question to the broker may take."""

PAUSE_SECONDS = 30.0
"""After a failure nothing is asked for so long, and redelivered messages run as they are: this must not stop a worker."""

EXPIRES_SECONDS = 86_400
"""A suspect's queue that nobody has used for so long is of no use any more, and RabbitMQ deletes it."""

ATTEMPT = SimpleNamespace(
    body="",
    headers={},
    properties={"delivery_mode": 2},
    content_type="text/plain",
    content_encoding="utf-8",
    errors=None,
)
"""The message that stands for one."""


class AmqpRecord:
    """See `isolation.Record`. A connection of its own: the consumer's belongs to its loop."""

    def __init__(
        self, app: Any, queue_of: Callable[[Any], str], connection_errors: Callable[[], Any],
        within: Callable[[float, Callable[[], Any]], Any],
    ) -> None:  # fmt: skip
        """*queue_of*: the queue that a message came from. *within*: call something for so many seconds at most."""
        self.app = app
        self.queue_of = queue_of
        self.connection_errors = connection_errors
        self._within = within
        self._alone = Lock()
        self._connection: Any = None
        self._channel: Any = None
        self._asked_again_at = 0.0

    # what arrives

    def recount(self, message: Any) -> bool:
        """A message that was delivered before, maybe to a process that died of it, goes to the tail of its queue with one
        death more in its record; True if it is on its way, and no longer here.
        """
        info, headers = message.delivery_info or {}, message.headers
        if not info.get("redelivered") or not isinstance(headers, dict):
            return False
        now = time()
        if not may_have_started(headers, now):
            return False
        return self.send_back(message, read(headers).after_death(now))

    def send_back(self, message: Any, suspicion: Suspicion) -> bool:
        """Publish it anew with this record, then acknowledge it; False if the broker does not take it."""
        queue = self.queue_of(message)
        if not queue or monotonic() < self._asked_again_at:
            return False
        try:
            self._copy(message, queue, {HEADER: suspicion.header()})
        except Exception as error:
            logger.warning("Could not note that a message was redelivered: %r", error)
            return False
        message.ack_log_error(logger, self.connection_errors())
        return True

    def requeue(self, message: Any, suspicion: Suspicion) -> bool:
        """To the tail of its queue, with this record; False if the broker does not take it."""
        return self.send_back(message, suspicion)

    # attempts

    def attempts(self, message: Any, known: Suspicion) -> Suspicion:
        """What the suspect's queue says. Raises the broker's errors."""
        counted = self._declare_attempts(message)
        return Suspicion(known.deaths, max(known.attempts, counted), known.seen)

    def begin(self, message: Any, after: Suspicion) -> None:
        """Publish what is missing. Raises the broker's errors."""
        missing = after.attempts - self._declare_attempts(message)
        name = self._attempts_queue(message)
        for _ in range(missing):
            self._copy(ATTEMPT, name, {})

    def end(self, message: Any) -> None:
        """Delete the suspect's queue. Raises the broker's errors."""
        self._using(lambda channel: channel.queue_delete(self._attempts_queue(message)))

    def bury(self, message: Any, task: str, task_id: str, deaths: int) -> str:
        """Publish with confirmation, then acknowledge. Raises the broker's errors; then the message is still in its queue."""
        if message.channel.connection is None:
            raise LookupError("the connection that it came over is lost")
        queue = self.queue_of(message)
        target = rabbit_queue(queue)
        self._using(lambda _: declare_dead(self._connection, target, self._kind_of(queue)))
        message.properties.pop("expiration", None)  # it waits for a person now
        why = {REASON: WORKER_LOST, AT: f"{time():.3f}", DELIVERIES: str(deaths), QUEUE: queue}
        self._copy(message, target, why)
        message.ack_log_error(logger, self.connection_errors())
        try:
            self.end(message)
        except Exception as error:
            logger.debug("%s stays until it expires: %r", self._attempts_queue(message), error)
        return queue

    def _kind_of(self, queue: str) -> str | None:
        """Its ``x-queue-type``, if the app says so."""
        declared = self.app.amqp.queues.get(queue)
        return (getattr(declared, "queue_arguments", None) or {}).get("x-queue-type")

    def _attempts_queue(self, message: Any) -> str:
        identity = str(message.headers.get("id") or message.properties.get("correlation_id") or "")
        if not re.fullmatch(r"[\w-]{1,64}", identity):
            identity = sha256(identity.encode()).hexdigest()[:32]
        return f"{self.queue_of(message)}.suspect.{identity}"

    def _declare_attempts(self, message: Any) -> int:
        name = self._attempts_queue(message)
        arguments = {"x-queue-type": "classic", "x-expires": EXPIRES_SECONDS * 1000}
        answer = self._using(
            lambda channel: channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        )
        return int(answer.message_count)

    # the connection

    def _copy(self, message: Any, queue: str, more: Mapping[str, Any]) -> None:
        """Returns when the broker has confirmed it. Raises the broker's errors."""
        self._using(
            lambda channel: publish(self._connection.Producer(channel, auto_declare=False), Copy(message, queue, more))
        )

    def _using(self, what: Callable[[Any], Any]) -> Any:
        """Ask over the connection, one at a time; after an error it is made anew, once."""
        with self._alone:
            for last in (False, True):
                try:
                    return self._within(ANSWER_SECONDS, lambda: what(self._open()))
                except Exception:
                    self._close()
                    if last:
                        self._asked_again_at = monotonic() + PAUSE_SECONDS
                        raise
        return None

    def _open(self) -> Any:
        if self._channel is None:
            options = dict(self.app.conf.broker_transport_options or {})
            limits = {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
            self._connection = self.app.connection_for_write(
                connect_timeout=ANSWER_SECONDS, heartbeat=0,
                transport_options={**options, "confirm_publish": True, **limits},
            )  # fmt: skip
            self._connection.connect()
            self._channel = self._connection.channel()
        return self._channel

    def _close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.collect(socket_timeout=1.0)
            except Exception as error:
                logger.debug("Closing the record's connection: %r", error)


def declare_dead(connection: Any, queue: str, kind: str | None) -> None:
    """Make sure that *queue* exists; of *kind* (``x-queue-type``) if it has to be made."""
    channel = connection.channel()
    try:
        channel.queue_declare(queue=queue, passive=True)
        channel.close()
    except NotFound:
        channel = connection.channel()
        arguments = {"x-queue-type": kind} if kind else None
        channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
        channel.close()
