"""Redis, as one process of a worker uses it. What needs its library is imported when that is known to be there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from greenworker.brokers.kind import connection_with
from greenworker.brokers.redis.keys import MailboxKeys
from greenworker.brokers.redis.options import merge_options
from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.environment import Environment
from greenworker.misconfigured import require
from greenworker.monitoring.task_risks import VISIBILITY, AckTimeout
from greenworker.tls import Trust, redis_options

if TYPE_CHECKING:
    from greenworker.brokers.redis.unacked_store import UnackedStore
    from greenworker.runtime import Runtime

TRANSPORTS = {
    "redis": "greenworker.brokers.redis.transport:Transport",
    "rediss": "greenworker.brokers.redis.transport:Transport",
    "sentinel": "greenworker.brokers.redis.transport:SentinelTransport",
}
"""Ours, by the scheme of the URL."""

COMPANION_TRANSPORTS = {
    "redis": "greenworker.brokers.redis.event_loop:Transport",
    "rediss": "greenworker.brokers.redis.event_loop:Transport",
    "sentinel": "greenworker.brokers.redis.event_loop:SentinelTransport",
}

VISIBILITY_SECONDS = 3600.0
"""kombu's default (``Channel.visibility_timeout``)."""


class RedisKind:
    """See `kind.BrokerKind`."""

    store: UnackedStore
    """Of the process. Set by `prepare`."""

    def __init__(self, scheme: str) -> None:
        self.secure = scheme == "rediss"

    def tls_options(self, trust: Trust) -> dict[str, Any]:
        """See `tls.redis_options`."""
        return redis_options(trust)

    def merge_options(self, app: Any, environment: Environment, master_name: str) -> None:
        """See `options.merge_options`."""
        merge_options(app, environment, master_name)

    def ack_timeout(self, app: Any, environment: Environment) -> AckTimeout:
        """kombu's."""
        options = app.conf.broker_transport_options or {}
        return AckTimeout(
            VISIBILITY, float(options.get("visibility_timeout") or VISIBILITY_SECONDS),
            "this worker renews it as long as it reaches Redis, and a stock worker does not: there the task runs twice",
            "raise visibility_timeout in broker_transport_options of every worker of this broker",
        )  # fmt: skip

    def prepare(self, runtime: Runtime, *, companion: bool) -> None:
        """Makes the store. kombu makes channels, and has nothing of ours to pass to them."""
        for module in ("redis", "kombu.transport.redis"):
            require(module, "the broker is Redis", "add celery[redis] to the image's requirements")
        from greenworker.brokers.redis import event_loop, transport  # noqa: PLC0415 - need redis
        from greenworker.brokers.redis.publishing import notice_closed_channels  # noqa: PLC0415 - needs redis
        from greenworker.brokers.redis.unacked_store import UnackedStore  # noqa: PLC0415 - needs redis

        notice_closed_channels()
        worker = runtime.environment.worker
        if companion:
            from celery import signals  # noqa: PLC0415 - beside what it is for

            store = self.store = event_loop.ThreadUnackedStore(worker)
            signals.worker_shutdown.connect(store.leave, weak=False)
        else:
            self.store = UnackedStore(worker)
        transport.Channel.runtime, transport.Channel.process_store = runtime, self.store
        self.store.recovery.restarts_in_place = bool(os.environ.get("GREENWORKER_WORKER"))
        runtime.task_risks.store_failures = lambda: self.store.flushes_failed

    def remote_control_starts(self, app: Any, hostname: str) -> None:
        """The store removes the mailbox of a worker that is dead."""
        self.store.mailbox = MailboxKeys.of(app.control.mailbox, hostname)

    def connection(self, app: Any, heartbeat: Any) -> Any:
        """See `transport.Transport`."""
        return connection_with(TRANSPORTS, app, heartbeat)

    def companion_connection(self, app: Any, heartbeat: Any) -> Any:
        """See `event_loop.Transport`."""
        return connection_with(COMPANION_TRANSPORTS, app, heartbeat)

    def settlement(self, surroundings: Surroundings) -> Settlement:
        """See `RedisSettlement`."""
        from greenworker.brokers.redis.settlement import RedisSettlement  # noqa: PLC0415 - needs redis

        return RedisSettlement(self.store, surroundings)
