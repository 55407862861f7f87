"""Results from Redis: read through an outage, and subscribed to by one green thread at a time.

Celery's reader ends after its retries, which are 20 s of an outage. Whoever waits in a task then waits until its
timeout, and from 5.6 on whoever waits later gets an error. So ours goes on trying.

Up to 5.6 the first tasks that wait for others at the same time all connect. The last connection is read, and what was
subscribed to over the others never arrives: ``.get()`` waits until its timeout. The same where a lost connection is
replaced. From 5.7 on Celery takes care of it.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from celery.backends import redis
from celery.utils.log import get_logger

logger = get_logger(__name__)

AGAIN_SECONDS = 1.0


class ReconnectingConsumer(redis.ResultConsumer):
    """Connects anew for as long as it takes; what was stored meanwhile is read then."""

    _lost = False

    def drain_events(self, timeout: float | None = None) -> Any:
        """Waits *timeout* seconds at most, or as long as Celery's retries take."""
        try:
            if self._lost or (self._pubsub is None and self.subscribed_to):
                self._reconnect_pubsub()
                self._lost = False
            return super().drain_events(timeout=timeout)
        except (RuntimeError, *self._connection_errors) as error:  # 5.6 and newer say RuntimeError after the retries
            if not self._lost:
                logger.warning("Results cannot be read; it is tried until they can: %r", error)
            self._lost = True
            time.sleep(AGAIN_SECONDS)


class SerialConsumer(ReconnectingConsumer):
    """Whoever subscribes, withdraws or connects does so alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lock = RLock()
        self._busy = False
        self._withdrawn: set[str] = set()
        super().__init__(*args, **kwargs)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._busy:  # by this green thread
                yield
                return
            self._busy = True
            try:
                yield
                while self._withdrawn:
                    super().cancel_for(self._withdrawn.pop())
            finally:
                self._busy = False

    def consume_from(self, task_id: str) -> Any:
        """Connects at the first time."""
        with self._alone():
            self._withdrawn.discard(task_id)
            return super().consume_from(task_id)

    def cancel_for(self, task_id: str) -> None:
        """Never waits, for it is also called where garbage is collected: whoever is busy does it afterwards."""
        self._withdrawn.add(task_id)
        if not self._busy:
            with self._alone():
                pass

    def _reconnect_pubsub(self) -> None:
        with self._alone():
            super()._reconnect_pubsub()

    def drain_events(self, timeout: float | None = None) -> Any:
        """Waits *timeout* seconds at most. Nothing is read while a connection is made."""
        with self._lock:
            pass
        return super().drain_events(timeout=timeout)


def own_consumers() -> None:
    """For every result backend on Redis that is made from now on."""
    knows_it = hasattr(redis.ResultConsumer, "_locked")
    redis.RedisBackend.ResultConsumer = ReconnectingConsumer if knows_it else SerialConsumer
