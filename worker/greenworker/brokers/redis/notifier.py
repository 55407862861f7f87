"""Redis notifies a worker when a message comes to an empty queue, so that the worker need not poll.

A blocking pop can lose a message: it is popped before it is booked. But Redis tells a client that tracks keys when one
of them changes (https://redis.io/docs/latest/develop/reference/client-side-caching/, since 6.0). Nothing is cached
here; only the notification is used. It costs one question for each time that the queue was empty and is not. Polling
ten times a second costs an idle worker 1 % of a core, and each message up to 0.1 s.

Without a notifier the worker polls ten times a second; with one it still asks every `ASK_ANYWAY_SECONDS`.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub

logger = get_logger(__name__)

ANSWER_SECONDS = 2.0
"""How long Redis may take to connect or to answer here."""

ASK_ANYWAY_SECONDS = 1.0
"""A connection may be lost without a sign: a proxy, a firewall, a failover."""

RETRY_SECONDS = 5.0
"""After a connection was lost, and after a message was found without a notification."""

_CHANNEL = b"__redis__:invalidate"


class EmptyQueueNotifier:
    """Two connections of one worker's own: one asks and is tracked by Redis, the other receives. Of the hub's
    thread.
    """

    def __init__(self, pool: Any) -> None:
        """*pool*: a connection pool of redis-py for this broker, which nobody else uses."""
        self._pool = pool
        self._question: Any = None
        self._receiver: Any = None
        self._lists: tuple[str, ...] = ()
        self._notified = hub.Wakeup()
        self._retry_at = 0.0
        self._refused = False

    @property
    def connected(self) -> bool:
        """Whether it is connected."""
        return self._question is not None

    @property
    def quiet(self) -> bool:
        """Redis would have notified us if a message had come since `listen`."""
        return bool(self._lists)

    def listen(self, lists: Sequence[str]) -> bool | None:
        """True: *lists* are empty, and Redis notifies us as soon as one is not. False: a message waits. None: no
        notifier is connected.
        """
        if not self.connected and not self._connect():
            return None
        if self._lists == tuple(lists):
            return True
        try:
            self._lists = tuple(lists)
            self._notified.clear()
            self._question.send_command("EXISTS", *lists)
            if self._question.read_response():
                self._lists = ()
        except Exception as error:
            self._disconnect(error)
            return None
        return self.quiet  # Redis may have notified us, or the connection was lost, while Redis answered

    def wait(self, seconds: float) -> None:
        """Until Redis notifies us, at most *seconds*."""
        if self.quiet:
            self._notified.wait(seconds)

    def reconnect_later(self) -> None:
        """A message was there without a notification: connect anew, after `RETRY_SECONDS`."""
        self._disconnect(None)

    def close(self) -> None:
        """For good."""
        self._refused = True
        self._disconnect(None)

    def _connect(self) -> bool:
        """Connect. False while that is not possible."""
        if self._refused or monotonic() < self._retry_at:
            return False
        subscriber = None
        try:
            subscriber = self._connection()
            subscriber.send_command("CLIENT", "ID")
            number = subscriber.read_response()
            subscriber.send_command("SUBSCRIBE", _CHANNEL)
            subscriber.read_response()
            self._question = self._connection()
            self._question.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", number)
            self._question.read_response()
        except Exception as error:
            if subscriber is not None:
                subscriber.disconnect()
            self._refused = not isinstance(error, self._lost())
            self._disconnect(error)
            return False
        self._receiver = hub.spawn(self._receive, subscriber)
        return True

    def _connection(self) -> Any:
        """Of RESP 2, in which invalidations are ordinary published messages, in every version of redis-py."""
        import redis  # noqa: PLC0415 - the user's own, after patching

        options = {
            name: value
            for name, value in self._pool.connection_kwargs.items()
            if not name.startswith(("maint_notifications", "orig_", "health_check"))
        }
        options["socket_timeout"] = ANSWER_SECONDS
        if "socket_connect_timeout" in options:  # not for a Unix socket
            options["socket_connect_timeout"] = ANSWER_SECONDS
        if int(redis.__version__.split(".")[0]) >= 5:
            options["protocol"] = 2
        connection = self._pool.connection_class(**options)
        connection.connect()
        return connection

    def _receive(self, subscriber: Any) -> None:
        """For as long as the connection lives. Nobody else touches it: a green thread may wait for a descriptor of its
        own only.
        """
        try:
            while True:
                if subscriber.can_read(timeout=60):
                    subscriber.read_response()
                    self._notify()
        except Exception as error:
            self._disconnect(error)
        finally:
            subscriber.disconnect()

    def _notify(self) -> None:
        self._lists = ()
        self._notified.set()

    def _disconnect(self, error: Exception | None) -> None:
        """Whoever waits for a notification polls again."""
        question, receiver = self._question, self._receiver
        self._question = self._receiver = None
        self._retry_at = monotonic() + RETRY_SECONDS
        if error is not None:
            how = "every 0.1 s from now on" if self._refused else "every 0.1 s until it is back"
            logger.info("Redis does not tell when a message comes; it is asked %s: %r", how, error)
        if question is not None:
            question.disconnect()
        if receiver is not None and receiver is not hub.current():
            hub.kill(receiver)
        self._notify()

    @staticmethod
    def _lost() -> tuple[type[Exception], ...]:
        import redis  # noqa: PLC0415

        return (redis.ConnectionError, redis.TimeoutError, OSError)
