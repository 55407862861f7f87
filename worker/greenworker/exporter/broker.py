"""What the exporter asks of a broker, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from greenworker.brokers.url import FIX, UNREADABLE, is_readable
from greenworker.tls import Trust

TIMEOUT_SECONDS = 5.0
"""For connecting and for every answer."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue as the resource names it."""

    name: str
    key_prefix: str = ""
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages, and consumers. None where the broker cannot tell."""

    ready: int
    unacked: int | None = None
    consumers: int | None = None
    dead: int | None = None
    """Dead letters of the queue."""


class Broker(Protocol):
    """An open connection."""

    at_once: int
    """How many queues are asked for with one question."""

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """The depth of every queue; 0 for one that the broker does not know. Raises on any doubt."""

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """Where `depths` does not ask for dead letters itself: count those of *queues* from now on, beside everything else. Later depths have
        them.
        """

    def dead_letters(self, queue: Queue) -> Any:
        """The dead letters of *queue*: `dead_letters.Letters`."""

    def close(self) -> None:
        """Let go; never raises."""


def connect(url: str, trust: Trust, metrics_port: int = 0) -> Broker:
    """Open a connection to whatever *url* names; *metrics_port* is that of RabbitMQ's Prometheus plugin, 0 for none. Raises what the client
    library raises, ValueError for a strange URL.
    """
    if not is_readable(url):
        raise ValueError(f"{UNREADABLE}: {FIX}")
    scheme = url.split("://", maxsplit=1)[0].split("+", maxsplit=1)[0].lower()
    if scheme in ("redis", "rediss", "sentinel"):
        from greenworker.exporter.redis import RedisBroker  # noqa: PLC0415 - only the library that is needed

        urls = url.split(";")
        if scheme != "sentinel" and len(urls) > 1:
            from greenworker.exporter.failover import Failover  # noqa: PLC0415 - it needs this module

            return Failover(urls, lambda one: RedisBroker(one, trust))
        return RedisBroker(url, trust)
    if scheme in ("amqp", "amqps", "pyamqp"):
        from greenworker.exporter.rabbitmq import RabbitBroker  # noqa: PLC0415

        return RabbitBroker(url, trust, metrics_port)
    raise ValueError(f"the exporter knows redis, rediss, sentinel, amqp and amqps, not {scheme!r}")
