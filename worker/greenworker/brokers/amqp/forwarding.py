"""Sends messages on to another queue of RabbitMQ: declare it, publish, wait for the confirmation, then acknowledge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub
from greenworker.brokers.amqp.republish import Copy, Republisher
from greenworker.brokers.declarations import refused_declaration
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.accounting import Accounting

logger = get_logger(__name__)

RETRY_SECONDS = 1.0

FORWARD_AT_ONCE = 500
"""Messages that travel together. More of them wait for the next turn."""

CONFIRM_SECONDS = 15.0
"""Within so long a broker has written down what was forwarded; what it has not confirmed is sent again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message on its way to *queue* (kombu's)."""

    message: Any
    task: str
    queue: Any
    otherwise: Callable[[MisconfiguredError], None]

    @property
    def lost(self) -> bool:
        """Whether the connection that the message came over is closed: then the broker delivers it again."""
        return self.message.channel.connection is None


class Publisher:
    """Of one consumer; has a connection of its own while there is something to publish."""

    def __init__(
        self, app: Any, accounting: Accounting, draining: Callable[[], bool], connection_errors: Callable[[], Any],
        return_messages: Callable[[Sequence[Any]], None],
    ) -> None:  # fmt: skip
        self._app = app
        self._accounting = accounting
        self._draining = draining
        self._connection_errors = connection_errors
        self._return_messages = return_messages
        self._waiting: deque[Entry] = deque()
        self._under_way: list[Entry] = []
        """Those whose confirmations are awaited."""
        self._running = False
        self._republisher: Republisher | None = None
        self._declared: set[str] = set()

    def add(self, message: Any, task: str, queue: Any, otherwise: Callable[[MisconfiguredError], None]) -> None:
        """Publish it soon, in a green thread."""
        self._waiting.append(Entry(message, task, queue, otherwise))
        if not self._running:
            self._running = True
            hub.spawn(self._publish_waiting)

    @property
    def busy(self) -> bool:
        """Whether messages are on their way."""
        return bool(self._waiting or self._under_way)

    def messages(self) -> list[Any]:
        """Those that are not settled yet."""
        return [entry.message for entry in (*self._under_way, *self._waiting)]

    def declare(self, queue: Any) -> None:
        """Once for each connection, as the application would. Raises `MisconfiguredError` if it cannot be had, or the
        broker's errors.
        """
        if queue.name in self._declared:
            return
        try:
            self._connected().declare(queue)
        except Exception as error:
            refused = refused_declaration(error, queue.name)
            if refused is not None:
                raise refused from error
            self._close()
            raise
        self._declared.add(queue.name)

    def _connected(self) -> Republisher:
        if self._republisher is None:
            self._republisher = Republisher(self._app)
        return self._republisher

    def _publish_waiting(self) -> None:
        try:
            while self._waiting:
                self._under_way = [self._waiting.popleft() for _ in range(min(len(self._waiting), FORWARD_AT_ONCE))]
                left = self._publish(self._under_way)
                self._waiting.extendleft(reversed(left))
                self._under_way = []
                if not left:
                    continue
                self._close()
                if self._draining():
                    self._return_all()
                    return
                hub.sleep(RETRY_SECONDS)
        finally:
            self._under_way = []
            self._running = False

    def _publish(self, batch: list[Entry]) -> list[Entry]:
        """What has to be tried again. What cannot be forwarded is the caller's again; what is lost is nobody's here any
        more.
        """
        good: list[Entry] = []
        left: list[Entry] = []
        for entry in batch:
            if entry.lost:
                continue
            if left:  # the broker does not answer: ask it once for all of them
                left.append(entry)
                continue
            try:
                self.declare(entry.queue)
            except MisconfiguredError as error:
                self._leave(entry, error)
            except Exception as error:
                logger.warning("Could not forward %s to %s yet: %r", entry.task, entry.queue.name, error)
                left.append(entry)
            else:
                good.append(entry)
        if not good:
            return left
        copies = [Copy(entry.message, entry.queue.name) for entry in good]
        confirmed = self._connected().publish(copies, CONFIRM_SECONDS)
        for position, entry in enumerate(good):
            if position in confirmed:
                entry.message.ack_log_error(logger, self._connection_errors())
                self._accounting.forwarded.add(1, entry.task)
            else:
                left.append(entry)
        return left

    @staticmethod
    def _leave(entry: Entry, error: MisconfiguredError) -> None:
        """It is the caller's again. What the caller raises must not keep the others from being forwarded."""
        try:
            entry.otherwise(error)
        except Exception:
            logger.exception("A message of %s could be neither forwarded nor run here", entry.task)

    def _return_all(self) -> None:
        self._under_way = [entry for entry in self._waiting if not entry.lost]
        self._waiting.clear()
        self._return_messages([entry.message for entry in self._under_way])

    def _close(self) -> None:
        republisher, self._republisher = self._republisher, None
        self._declared.clear()
        if republisher is not None:
            republisher.close()
