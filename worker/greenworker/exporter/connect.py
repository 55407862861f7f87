"""A connection to whatever broker a URL names. Imports only the library that this broker needs."""

from __future__ import annotations

from greenworker.brokers.url import (
    AMQP,
    FIX,
    REDIS,
    UNREADABLE,
    check_one_scheme,
    check_options,
    check_tls_options,
    is_readable,
    split,
)
from greenworker.exporter.broker import Broker
from greenworker.exporter.failover import Failover
from greenworker.tls import Trust


def connect(url: str, trust: Trust, metrics_port: int = 0) -> Broker:
    """Open a connection to whatever *url* names; *metrics_port* is that of RabbitMQ's Prometheus plugin, 0 for none.
    Raises what the client library raises, ValueError for a strange URL, `MisconfiguredError` for a list that the worker
    refuses.
    """
    if not is_readable(url):
        raise ValueError(f"{UNREADABLE}: {FIX}")
    check_one_scheme(url)
    check_tls_options(url, "broker")
    check_options(url)
    urls = split(url)
    url = ";".join(urls)
    scheme = url.split("://", maxsplit=1)[0].split("+", maxsplit=1)[0]
    if scheme in REDIS:
        from greenworker.exporter.redis import RedisBroker  # noqa: PLC0415 - only the library that is needed

        if scheme != "sentinel" and len(urls) > 1:
            return Failover(urls, lambda one: RedisBroker(one, trust))
        return RedisBroker(url, trust)
    if scheme in AMQP:
        from greenworker.exporter.rabbitmq import RabbitBroker  # noqa: PLC0415

        return RabbitBroker(url, trust, metrics_port)
    raise ValueError(f"the exporter knows redis, rediss, sentinel, amqp and amqps, not {scheme!r}")
