"""Attempts and dead letters on RabbitMQ, and a count of what was redelivered.

A classic queue says that a message was delivered before, not how often; a quorum queue counts, and drops what exceeds
its delivery limit, whether it is the cause or not. So a redelivered message is published again with its record in a
header and then acknowledged: its queue's own count begins anew. Attempts have to be on the broker before they begin,
and who holds a message cannot change it: they are the messages of a small queue of that one suspect's.

A lost connection looks like a death to whoever gets the message next. Only the worker that has lost it knows that it
lives: when it has a connection again, it writes down which messages it held. That is read before a message becomes a
suspect.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from threading import Lock
from time import monotonic, sleep, time
from types import SimpleNamespace
from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from celery.utils.log import get_logger

from greenworker.brokers.amqp.republish import Copy, publish
from greenworker.brokers.dead_letters import AT, DELIVERIES, QUEUE, REASON, WORKER_LOST, rabbit_queue
from greenworker.brokers.suspicion import HEADER, MEMORY_SECONDS, Suspicion, may_have_started, read
from greenworker.compat import queue_type

logger = get_logger(__name__)

ANSWER_SECONDS = 5.0
"""How long a question to the broker may take."""

PAUSE_SECONDS = 30.0
"""After a failure nothing is asked for so long, and redelivered messages run as they are: this must not stop a
worker.
"""

EXPIRES_SECONDS = 86_400
"""A suspect's queue that nobody has used for so long is of no use any more, and RabbitMQ deletes it."""

SURVIVED = "suspect.lost.connections"
"""End of the name of the queue that has one message for each lost connection whose worker lives. No suspect's queue is
called so: a dot never stands in a task's part.
"""

FRESH_SECONDS = 2.0
"""How long what was read there holds: after a broker's restart many messages ask at once."""

IDLE_SECONDS = 1.0
"""A connection that was not used for so long may be gone, and is asked something before a message is trusted to it."""

READER_TRIES, READER_PAUSE_SECONDS = 10, 0.1
"""One worker after the other reads."""

NOTE = SimpleNamespace(
    body="",
    headers={},
    properties={"delivery_mode": 2},
    content_type="text/plain",
    content_encoding="utf-8",
    errors=None,
)
"""A message of our own, for an attempt; with a body for a lost connection."""


class AmqpAttempts:
    """See `settlement.Attempts`. A connection of its own: the consumer's belongs to its loop."""

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
        self._used_at = -IDLE_SECONDS
        self._lost: dict[str, set[str]] = {}
        """Queue → tasks whose connection was lost, not published yet."""
        self._survivals: dict[str, tuple[float, Counter[str]]] = {}
        """Queue → when it was asked, and how often each task's connection was lost by a worker that lives."""

    # what arrives

    def recount(self, message: Any) -> bool:
        """A message that was delivered before, maybe to a process that died of it, goes to the tail of its queue with
        one death more in its record; True if it is on its way, and no longer here.
        """
        info, headers = message.delivery_info or {}, message.headers
        if not info.get("redelivered") or not isinstance(headers, dict):
            return False
        now = time()
        if not may_have_started(headers, now):
            return False
        if monotonic() < self._asked_again_at:
            return False
        return self.send_back(message, self._without_survivals(message, read(headers).after_death(now)))

    def send_back(self, message: Any, suspicion: Suspicion) -> bool:
        """For a message that did not start here, with a record as it came or as it was counted on its arrival: publish
        it anew at the tail of its queue, then acknowledge it. False if the broker has not confirmed it: then the
        original has to run or to go back.
        """
        queue = self.queue_of(message)
        if not queue or monotonic() < self._asked_again_at:
            return False
        try:
            self._copy(message, queue, {HEADER: suspicion.header()})
        except Exception as error:
            logger.warning("Could not note that a message was redelivered: %r", error)
            return False
        self._settle(message)
        return True

    def requeue(self, message: Any, suspicion: Suspicion) -> bool:
        """For a message whose task has started here and whose child is dead: as `send_back`, with one attempt more."""
        return self.send_back(message, suspicion)

    # lost connections

    def connection_lost(self, messages: Iterable[Any]) -> None:
        """These were held when their connection was lost, and this process lives: note them for `survived`."""
        now = time()
        for message in messages:
            queue = self.queue_of(message)
            if queue and not message.acknowledged and may_have_started(message.headers, now):
                self._lost.setdefault(queue, set()).add(identity_of(message))

    def survived(self) -> None:
        """There is a connection again: tell those who get the noted messages that it was no death. Never raises."""
        lost, self._lost = self._lost, {}
        try:
            for queue, identities in lost.items():
                name = self._declare_survived(queue)
                self._copy(SimpleNamespace(**{**vars(NOTE), "body": json.dumps(sorted(identities))}), name, {})
        except Exception as error:
            logger.warning("Could not note that a connection was lost and this worker lives: %r", error)

    def _without_survivals(self, message: Any, suspicion: Suspicion) -> Suspicion:
        """*suspicion* of a message that is about to become a suspect, without the deaths that were none."""
        if not suspicion.suspect or suspicion.attempts:
            return suspicion
        return suspicion.without(self._survivals_of(self.queue_of(message))[identity_of(message)])

    def _survivals_of(self, queue: str) -> Counter[str]:
        asked, found = self._survivals.get(queue, (-FRESH_SECONDS, Counter()))
        if monotonic() - asked < FRESH_SECONDS:
            return found
        try:
            name = self._declare_survived(queue)
            found = self._using(lambda _: self._read_survived(name))
        except Exception as error:
            logger.warning("Could not ask which connections were lost by workers that live: %r", error)
            found = Counter()
        self._survivals[queue] = monotonic(), found
        return found

    # attempts

    def so_far(self, message: Any, known: Suspicion) -> Suspicion:
        """What the suspect's queue says, and whether it is none after all. Raises the broker's errors."""
        counted = self._declare_attempts(message)
        return self._without_survivals(message, replace(known, attempts=max(known.attempts, counted)))

    def begin(self, message: Any, after: Suspicion) -> None:
        """Publish what is missing. Raises the broker's errors."""
        missing = after.attempts - self._declare_attempts(message)
        name = self._attempts_queue(message)
        for _ in range(missing):
            self._copy(NOTE, name, {})

    def end(self, message: Any) -> None:
        """Delete the suspect's queue. Raises the broker's errors."""
        self._using(lambda channel: channel.queue_delete(self._attempts_queue(message)))

    def dead_letter(self, message: Any, task: str, task_id: str, deaths: int) -> str:
        """Publish with confirmation, then acknowledge. Raises the broker's errors; then the message is still in its
        queue.
        """
        queue = self._set_aside(message, WORKER_LOST, deaths)
        try:
            self.end(message)
        except Exception as error:
            logger.debug("%s stays until it expires: %r", self._attempts_queue(message), error)
        return queue

    def refuse(self, message: Any, reason: str) -> str:
        """For a message that Celery cannot take: as `dead_letter`, with *reason*."""
        return self._set_aside(message, reason, 1)

    def _set_aside(self, message: Any, reason: str, deliveries: int) -> str:
        if message.channel.connection is None:
            raise LookupError("the connection that it came over is lost")
        queue = self.queue_of(message)
        target, kind = rabbit_queue(queue), queue_type(self.app.amqp.queues.get(queue))
        self._using(lambda _: declare_dead(self._connection, target, kind))
        message.properties.pop("expiration", None)  # it waits for a person now
        why = {REASON: reason, AT: f"{time():.3f}", DELIVERIES: str(deliveries), QUEUE: queue}
        self._copy(message, target, why)
        self._settle(message)
        return queue

    def _attempts_queue(self, message: Any) -> str:
        identity = identity_of(message)
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

    def _declare_survived(self, queue: str) -> str:
        name = f"{queue}.{SURVIVED}"
        arguments = {
            "x-queue-type": "classic", "x-expires": EXPIRES_SECONDS * 1000, "x-message-ttl": MEMORY_SECONDS * 1000,
        }  # fmt: skip
        self._using(lambda channel: channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments))
        return name

    def _read_survived(self, name: str) -> Counter[str]:
        """All messages stay there: they are taken by one reader at a time, and go back when its channel closes."""
        for left in reversed(range(READER_TRIES)):
            channel = self._connection.channel()
            found: list[Any] = []
            try:
                # A queue hands out what it has before it answers that the consumer is cancelled.
                channel.basic_cancel(channel.basic_consume(name, exclusive=True, callback=found.append))
                return Counter(identity for note in found for identity in identities_in(note.body))
            except AccessRefused:
                if not left:
                    raise
            finally:
                if channel.connection is not None:
                    channel.close()
            sleep(READER_PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    # the connection

    def _settle(self, message: Any) -> None:
        """The broker has its copy. What cannot be acknowledged is delivered again, and has doubled a task: that must
        end no consumer.
        """
        try:
            message.ack_log_error(logger, self.connection_errors())
        except Exception as error:
            logger.warning("Could not acknowledge a message of which the broker has a copy: %r", error)

    def _copy(self, message: Any, queue: str, more: Mapping[str, Any]) -> None:
        """Returns when the broker has confirmed it. Raises the broker's errors: then it may have it or not, and a
        second one would double it for sure.
        """
        if monotonic() - self._used_at > IDLE_SECONDS:
            self._using(lambda channel: channel.basic_qos(0, 1, False))  # any question
        self._using(
            lambda channel: publish(self._connection.Producer(channel, auto_declare=False), Copy(message, queue, more)),
            again=False,
        )

    def _using(self, what: Callable[[Any], Any], *, again: bool = True) -> Any:
        """Ask over the connection, one at a time; after an error it is made anew, and asked *again*, once."""
        with self._alone:
            for last in (False, True) if again else (True,):
                try:
                    answer = self._within(ANSWER_SECONDS, lambda: what(self._open()))
                except Exception:
                    self._close()
                    if last:
                        self._asked_again_at = monotonic() + PAUSE_SECONDS
                        raise
                else:
                    self._used_at = monotonic()
                    return answer
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


def identities_in(body: Any) -> list[str]:
    """The tasks that a note of a lost connection names; none where it is not ours."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return [identity for identity in found if isinstance(identity, str)] if isinstance(found, list) else []


def identity_of(message: Any) -> str:
    """The task's id, whatever the protocol."""
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    return str(headers.get("id") or message.properties.get("correlation_id") or "")


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
