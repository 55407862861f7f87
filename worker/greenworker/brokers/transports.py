"""Which transport a worker's consumer connects with: ours where the broker is Redis or speaks AMQP, else kombu's.

Only names stand here, so that the library of a broker which is not used need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REDIS_TRANSPORTS = {
    "redis": "greenworker.brokers.redis.transport:Transport",
    "rediss": "greenworker.brokers.redis.transport:Transport",
    "sentinel": "greenworker.brokers.redis.transport:SentinelTransport",
}
AMQP_TRANSPORTS = {
    "amqp": "greenworker.brokers.amqp.transport:Transport",
    "pyamqp": "greenworker.brokers.amqp.transport:Transport",
    "amqps": "greenworker.brokers.amqp.transport:SSLTransport",
}
"""Which transport replaces kombu's, by the scheme of the broker's URL."""

COMPANION_REDIS_TRANSPORTS = {
    "redis": "greenworker.prefork.redis:Transport",
    "rediss": "greenworker.prefork.redis:Transport",
    "sentinel": "greenworker.prefork.redis:SentinelTransport",
}
"""The same for the prefork companion, on Redis. On AMQP it keeps kombu's."""


def broker_scheme(app: Any) -> str:
    """Of the broker that the worker consumes from."""
    url = first_url(app.conf.broker_read_url)
    return str((url.split("://")[0] if "://" in url else app.conf.broker_transport) or "")


def redis_transport(app: Any) -> str | None:
    """Our transport for the app's broker if that is Redis, else None."""
    return REDIS_TRANSPORTS.get(broker_scheme(app))


def consumer_transport(app: Any) -> str | None:
    """Our transport for the worker's own consumer; None for a broker that is neither Redis nor AMQP."""
    return redis_transport(app) or AMQP_TRANSPORTS.get(broker_scheme(app))


def keep_transport(connection: Any, ours: Mapping[str, str]) -> Any:
    """*connection*, which stays with our transports when kombu goes to the next of several URLs: there it takes the
    URL's own scheme. *ours*: transports by scheme.
    """
    switch = connection.switch

    def switch_and_keep(url: str) -> None:
        switch(url)
        connection.transport_cls = ours.get(str(connection.transport_cls), connection.transport_cls)

    connection.switch = switch_and_keep
    return connection


def first_url(urls: Any) -> str:
    """Of a setting that may be one URL or a list of them; empty for none."""
    if isinstance(urls, (list, tuple)):
        urls = urls[0] if urls else ""
    return str(urls or "")
