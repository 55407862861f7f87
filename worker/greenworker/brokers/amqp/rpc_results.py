"""Results over the broker (``rpc://``), read by one green thread at a time.

Celery starts a green thread that reads results, and only then connects, in the thread that waits. The reader looks a
second later: where the connection is not complete yet, both read the same socket, which Eventlet forbids. The same when
a lost connection is replaced.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

from threading import RLock
from typing import Any

from celery.backends import rpc


class ResultConsumer(rpc.ResultConsumer):
    """Nothing is read while a connection is made, and one at a time is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._connecting = RLock()
        super().__init__(*args, **kwargs)

    def consume_from(self, task_id: str) -> Any:
        """Connects at the first time."""
        with self._connecting:
            return super().consume_from(task_id)

    def _reconnect(self) -> None:
        with self._connecting:
            super()._reconnect()

    def drain_events(self, timeout: float | None = None) -> Any:
        """Raises TimeoutError after *timeout* seconds without an event."""
        with self._connecting:
            pass
        return super().drain_events(timeout=timeout)


class RPCBackend(rpc.RPCBackend):
    """Celery's, with the consumer above."""

    ResultConsumer = ResultConsumer
