"""The settlement for the broker of an app."""

from __future__ import annotations

from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.brokers.transports import broker_scheme, consumer_transport
from greenworker.misconfigured import MisconfiguredError


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
