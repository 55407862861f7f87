"""A Redis that rings when a message comes to an empty queue, so that nobody has to ask again and again.

A list that is empty says nothing when it fills, unless one blocks in a command that pops, and whoever pops before he has
booked loses the message with his life. But Redis tells a client that keeps a cache when a key that it has read is changed
(https://redis.io/docs/latest/develop/reference/client-side-caching/, since 6.0): here nothing is cached, the message alone is
wanted. It costs a question and a line for each time that the queue was empty and is not; asking ten times a second cost a
worker at rest 1 % of a core, one with six tasks a second as much as half of the tasks' own CPU, and each message up to 0.1 s.

Whatever goes wrong in here, the worker asks: without a doorbell ten times a second, with one every `ASK_ANYWAY_SECONDS`.
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
"""A bell may be torn off without a sound: a proxy, a firewall, a failover."""

RETRY_SECONDS = 5.0
"""After a connection was lost, and after a message was found that nobody had rung for."""

_CHANNEL = b"__redis__:invalidate"


class Doorbell:
    """Two connections of one worker's own: one asks and is remembered by Redis, the other hears. Of the hub's thread."""

    def __init__(self, pool: Any) -> None:
        """*pool*: a connection pool of redis-py for this broker, which nobody else uses."""
        self._pool = pool
        self._question: Any = None
        self._hearer: Any = None
        self._lists: tuple[str, ...] = ()
        self._rung = hub.Wakeup()
        self._retry_at = 0.0
        self._refused = False

    @property
    def hangs(self) -> bool:
        """Whether it is connected."""
        return self._question is not None

    @property
    def quiet(self) -> bool:
        """Redis would have rung if a message had come since `listen`."""
        return bool(self._lists)

    def listen(self, lists: Sequence[str]) -> bool | None:
        """True: *lists* are empty, and Redis rings as soon as one is not. False: a message waits. None: there is no doorbell."""
        if not self.hangs and not self._hang():
            return None
        if self._lists == tuple(lists):
            return True
        try:
            self._lists = tuple(lists)
            self._rung.lower()
            self._question.send_command("EXISTS", *lists)
            if self._question.read_response():
                self._lists = ()
        except Exception as error:
            self._tear_off(error)
            return None
        return self.quiet  # it may have rung, or been torn off, while Redis answered

    def wait(self, seconds: float) -> None:
        """Until it rings, at most *seconds*."""
        if self.quiet:
            self._rung.wait(seconds)

    def distrust(self) -> None:
        """A message was there and it had not rung: hang it up anew, by and by."""
        self._tear_off(None)

    def close(self) -> None:
        """For good."""
        self._refused = True
        self._tear_off(None)

    def _hang(self) -> bool:
        """Connect. False while that is not possible."""
        if self._refused or monotonic() < self._retry_at:
            return False
        ear = None
        try:
            ear = self._connection()
            ear.send_command("CLIENT", "ID")
            number = ear.read_response()
            ear.send_command("SUBSCRIBE", _CHANNEL)
            ear.read_response()
            self._question = self._connection()
            self._question.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", number)
            self._question.read_response()
        except Exception as error:
            if ear is not None:
                ear.disconnect()
            self._refused = not isinstance(error, self._lost())
            self._tear_off(error)
            return False
        self._hearer = hub.spawn(self._hear, ear)
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

    def _hear(self, ear: Any) -> None:
        """For as long as the connection lives. Nobody else touches it: a green thread may wait for a descriptor of its own only."""
        try:
            while True:
                if ear.can_read(timeout=60):
                    ear.read_response()
                    self._ring()
        except Exception as error:
            self._tear_off(error)
        finally:
            ear.disconnect()

    def _ring(self) -> None:
        self._lists = ()
        self._rung.raise_()

    def _tear_off(self, error: Exception | None) -> None:
        """It hangs no more, and whoever waited for it asks."""
        question, hearer = self._question, self._hearer
        self._question = self._hearer = None
        self._retry_at = monotonic() + RETRY_SECONDS
        if error is not None:
            how = "every 0.1 s from now on" if self._refused else "every 0.1 s until it is back"
            logger.info("Redis does not tell when a message comes; it is asked %s: %r", how, error)
        if question is not None:
            question.disconnect()
        if hearer is not None and hearer is not hub.current():
            hub.kill(hearer)
        self._ring()

    @staticmethod
    def _lost() -> tuple[type[Exception], ...]:
        import redis  # noqa: PLC0415

        return (redis.ConnectionError, redis.TimeoutError, OSError)
