"""Celery's request, which keeps a message until what its task publishes at its end has been published.

A retry and the next link of a chain are published while a task ends. If the broker does not take them, Celery settles
the message all the same: the retry is rejected, the rest of the chain is dropped, and nobody runs either again. Here
such a message goes back to its queue, if the task is acknowledged late: the task runs again, and with it what it
publishes.
"""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject
from celery.utils.log import get_logger
from celery.worker.request import Request as StockRequest
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError

from greenworker import hub
from greenworker.pool.outcome import unwrapped
from greenworker.pool.retries import UNPUBLISHED
from greenworker.runtime import Runtime

logger = get_logger(__name__)

BROKEN = (OperationalError, OSError, AttributeError)
"""What publishing raises without a broker. The last comes from kombu where a connection is closed under its user."""

PAUSE_SECONDS = 1.0
"""Before the task runs again: a broker that takes no message for a while is not asked as fast as tasks can end."""

STOCK = "celery.worker.request:Request"


class Request(StockRequest):  # type: ignore[misc]
    """Used for every task whose app has not chosen a request class of its own."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Give the message back where the broker did not take what the task's end publishes."""
        if self.task.acks_late and was_not_published(exc_info):
            task_ready(self)
            logger.warning(
                "%s[%s] runs again: the broker did not take what it publishes at its end (its retry, or the next "
                "of its chain)",
                self.name, self.id,
            )  # fmt: skip
            if Runtime.of(self.app).environment.role == "eventlet":
                hub.sleep(PAUSE_SECONDS)
            return self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def was_not_published(exc_info: Any) -> bool:
    """Whether Celery's own part of a task's end, and not the task, failed for want of the broker.

    *exc_info* is billiard's; `internal` says that the error came from outside of the task's body. A retry that could
    not be published is a `Reject` whose reason is the broker's error, marked by `retries` (celery/app/task.py,
    `Task.retry`).
    """
    error = unwrapped(exc_info.exception)
    if isinstance(error, Reject):
        return hasattr(error, UNPUBLISHED) and not error.requeue and isinstance(error.reason, BROKEN)
    return bool(getattr(exc_info, "internal", False)) and isinstance(error, OperationalError)


def install(app: Any) -> None:
    """Before tasks are registered with the consumer. An app's own request class stays."""
    if app.Task.Request == STOCK:
        app.Task.Request = f"{Request.__module__}:{Request.__name__}"
