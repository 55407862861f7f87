"""Which broker an app has: worker and companion ask here alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenworker.brokers.amqp.kind import AmqpKind
from greenworker.brokers.kind import BrokerKind, broker_scheme
from greenworker.brokers.redis.kind import RedisKind
from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.brokers.url import AMQP, REDIS, unsupported

if TYPE_CHECKING:
    from greenworker.runtime import Runtime


def kind_of(app: Any) -> BrokerKind:
    """For the broker that *app* consumes from. Raises `MisconfiguredError` for one that is neither Redis nor
    RabbitMQ.
    """
    scheme = broker_scheme(app)
    if scheme in REDIS:
        return RedisKind(scheme)
    if scheme in AMQP:
        return AmqpKind(scheme)
    raise unsupported(scheme)


def settlement_of(consumer: Any, runtime: Runtime, within: Callable[[float, Callable[[], Any]], Any]) -> Settlement:
    """For Celery's *consumer*; *within* calls something for so many seconds at most."""
    return runtime.broker.settlement(
        Surroundings(
            app=consumer.app,
            accounting=runtime.accounting,
            task_risks=runtime.task_risks,
            max_deliveries=runtime.environment.max_deliveries,
            draining=lambda: runtime.drain.draining,
            consumed_from=consumer.consumed_from,
            connection_errors=lambda: consumer.connection_errors,
            within=within,
        )
    )
