"""The settlement for the broker of an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.brokers.transports import broker_scheme, consumer_transport
from greenworker.misconfigured import MisconfiguredError

if TYPE_CHECKING:
    from greenworker.runtime import Runtime


def settlement_of(consumer: Any, runtime: Runtime, within: Callable[[float, Callable[[], Any]], Any]) -> Settlement:
    """For the broker of Celery's *consumer*; *within* calls something for so many seconds at most.
    Raises as `settlement_for`.
    """
    return settlement_for(
        Surroundings(
            app=consumer.app,
            store=runtime.store,
            accounting=runtime.accounting,
            task_risks=runtime.task_risks,
            max_deliveries=runtime.environment.max_deliveries,
            draining=lambda: runtime.drain.draining,
            consumed_from=consumer.consumed_from,
            connection_errors=lambda: consumer.connection_errors,
            within=within,
        )
    )


def settlement_for(surroundings: Surroundings) -> Settlement:
    """For the broker of the app. Raises `MisconfiguredError` for one that is neither Redis nor RabbitMQ."""
    if surroundings.store is not None:
        from greenworker.brokers.redis.settlement import RedisSettlement  # noqa: PLC0415 - needs redis

        return RedisSettlement(surroundings)
    if consumer_transport(surroundings.app) is not None:
        from greenworker.brokers.amqp.settlement import AmqpSettlement  # noqa: PLC0415 - needs amqp

        return AmqpSettlement(surroundings)
    raise MisconfiguredError(
        "broker.urlFrom", f"{broker_scheme(surroundings.app)}://…", "this worker speaks to Redis and to RabbitMQ",
        "use redis://, rediss://, sentinel://, amqp:// or amqps:// as the broker, or run this app on a stock "
        "Celery worker",
    )  # fmt: skip
