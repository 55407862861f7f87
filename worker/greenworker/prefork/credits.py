"""Prefetch of the prefork companion where the broker fixes it for the life of a consumer: `Credits` on py-amqp's own
channel.

Celery raises its prefetch count by one for each message that waits for its ETA. A quorum queue ignores that: a few of
them took the whole prefetch, and the companion stood still until the first ETA.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenworker.brokers.amqp.prefetch import Credits, Unsettled
from greenworker.pool.drain import Drain


def start_credits(consumer: Any, qos: Any, drain: Drain) -> Credits:
    """For kombu's *consumer*, which does not consume yet: Celery's *qos* decides from now on. Its messages have to be
    told to ``channel.unsettled``.
    """
    channel = consumer.channel
    unsettled = channel.unsettled = Unsettled()
    channel._flush_soon = lambda: None  # acknowledgements are sent at once here
    for name in ("basic_ack", "basic_reject"):
        setattr(channel, name, counted(unsettled, getattr(channel, name)))
    found = Credits(consumer, lambda: drain.draining)

    def apply(prefetch_count: int) -> None:
        found.apply(prefetch_count)

    consumer.consume = lambda *_, **__: apply(qos.value)
    qos.callback = apply
    return found


def counted(unsettled: Unsettled, settle: Callable[..., Any]) -> Callable[..., Any]:
    """*settle*, which is known to *unsettled*. Nobody settles several messages with one call there."""

    def settled(delivery_tag: int, *args: Any, **kwargs: Any) -> Any:
        unsettled.settled(delivery_tag)
        return settle(delivery_tag, *args, **kwargs)

    return settled
