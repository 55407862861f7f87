"""What differs between the supported versions of Celery and kombu."""

from __future__ import annotations

from typing import Any


def declares_quorum_queues(app: Any, driver_type: str) -> bool:
    """Whether any queue of *app* is a quorum queue, as far as the app says so. Celery has this from 5.5 on
    (``celery.utils.quorum_queues``).
    """
    return driver_type == "amqp" and any(
        (queue.queue_arguments or {}).get("x-queue-type") == "quorum" for queue in app.amqp.queues.values()
    )


def with_static_prefetch(app: Any, connection: Any) -> Any:
    """*connection*, whose consumer may read quorum queues. Before 5.5 Celery asks for a prefetch count of the whole channel, which
    RabbitMQ refuses on them (``540 NOT_IMPLEMENTED``); it asks for one of each consumer where the transport says that it speaks AMQP 0-9-1
    to the letter.
    """
    if not _has_setting("detect_quorum_queues") and declares_quorum_queues(app, connection.transport.driver_type):
        connection.transport.qos_semantics_matches_spec = lambda _connection: True
    return connection


def keep_prefetch_count(consumer: Any, count: int) -> None:
    """After a lost connection Celery 5.3 always begins with a smaller prefetch count and restores it task by task, against live
    resize. From 5.4 on ``worker_enable_prefetch_count_reduction`` says so.
    """
    if not _has_setting("enable_prefetch_count_reduction"):
        consumer.initial_prefetch_count = count
        consumer._maximum_prefetch_restored = True


def _has_setting(name: str) -> bool:
    """Whether this Celery knows the setting ``worker_NAME``."""
    from celery.app.defaults import NAMESPACES  # noqa: PLC0415 - not before patching

    return name in NAMESPACES["worker"]
