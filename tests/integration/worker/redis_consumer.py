"""A consumer of the Redis transport inside the test's own process, behind a relay that can lose what is said."""

# mypy: disable-error-code="no-untyped-call,type-arg"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from celery.worker import state
from kombu import Connection, Queue

from greenworker.brokers.redis import event_loop
from greenworker.brokers.redis.event_loop import ThreadUnackedStore
from greenworker.environment import Environment
from greenworker.pool.drain import Drain
from greenworker.runtime import Runtime
from tests.integration.worker.harness import Redis, Relay


class Consumer:
    """A consumer of our transport in this process. *take* is called for each message."""

    def __init__(self, broker: Redis, relay: Relay, **options: Any) -> None:
        self.relay = relay
        self.runtime = Runtime(Environment.read({"GREENWORKER_POOL": "test/feeds", "GREENWORKER_ROLE": "prefork"}))
        self.runtime.drain = Drain(self.runtime)
        self.store = ThreadUnackedStore("w")
        event_loop.Channel.runtime, event_loop.Channel.process_store = self.runtime, self.store
        self.redis = redis.Redis(port=broker.port)
        self.take: Callable[[Any], None] = lambda message: None
        self.connection = Connection(
            f"redis://127.0.0.1:{relay.port}/0", transport="greenworker.brokers.redis.event_loop:Transport",
            transport_options={"socket_timeout": 3.0, "priority_steps": [0, 3, 6, 9], **options},
        )  # fmt: skip
        self.channel = self.connection.default_channel
        self.channel.basic_qos(0, 10, False)
        Queue("feeds", channel=self.channel).declare()
        self.channel.basic_consume("feeds", False, self._take, "tag")

    def _take(self, message: Any) -> None:
        self.take(message)

    def close(self) -> None:
        self.store.close()
        self.connection.collect()
        state.reserved_requests.clear()

    def booked(self) -> int:
        return int(self.redis.hlen("unacked"))
