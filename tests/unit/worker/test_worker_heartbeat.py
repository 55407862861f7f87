"""The heartbeat of a worker on Redis: a real thread beside the hub's, with which it shares a pool of connections."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from greenworker import native
from greenworker.brokers.redis.heartbeat import Heartbeat
from greenworker.brokers.redis.keys import Keys


class Connection(redis.Connection):
    """Without a server."""

    connected = True

    def connect(self) -> None:
        self.connected = True

    def disconnect(self, *_args: Any) -> None:
        self.connected = False

    def can_read(self, timeout: float = 0) -> bool:
        return False


def test_a_beat_that_fails_takes_nobody_elses_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub says itself that the worker lives when it connects. A beat that failed in that moment closed the
    connection under it: a ValueError, which Celery calls unrecoverable.
    """
    monkeypatch.setattr(native, "sleep", lambda _seconds: None)
    monkeypatch.setattr(native, "say", lambda _text: None)
    pool = redis.ConnectionPool(connection_class=Connection)
    in_use, idle = pool.get_connection("EVAL"), pool.get_connection("EVAL")
    pool.release(idle)
    heartbeat = Heartbeat("worker")
    heartbeat.keys = Keys("unacked", "index", "workers", "held.worker", "held.")

    class Client:
        connection_pool = pool

        def eval(self, *_args: Any) -> None:
            heartbeat.closing = True
            raise redis.ConnectionError("it fell silent")

    heartbeat.client = Client()
    heartbeat.run()
    assert heartbeat.connected_at == 0.0
    assert not idle.connected, "the next beat needs a new connection"
    assert in_use.connected
