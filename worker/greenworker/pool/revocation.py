"""Revoked and expired tasks: asked for right before the start, and settled whatever the result backend says.

Celery stores REVOKED before it acknowledges. Where that fails, the error leaves through whoever asked: the consumer,
which ends the worker or its connection; the timer; or remote control. And the message stays with the worker for ever.
"""

from __future__ import annotations

from typing import Any

from celery.signals import task_revoked
from celery.utils.log import get_logger
from kombu.utils.imports import symbol_by_name

logger = get_logger(__name__)


class SettledRevocation:
    """Mixed into a task's own class of requests."""

    def _announce_revoked(self: Any, *args: Any) -> None:
        try:
            super()._announce_revoked(*args)  # type: ignore[misc]
        except Exception as error:
            logger.error("Could not record that %s[%s] is revoked: %r", self.name, self.id, error)
            self.acknowledge()
            self._already_revoked = True
            _reason, terminated, signum, expired = args
            task_revoked.send(self.task, request=self._context, terminated=terminated, signum=signum, expired=expired)


def settle_revocations(app: Any) -> None:
    """Before the tasks' strategies are made, which is at every connection: for all tasks, with whatever class of
    requests.
    """
    for task in app.tasks.values():
        stock: Any = symbol_by_name(task.Request)  # type: ignore[no-untyped-call]
        if not issubclass(stock, SettledRevocation):
            task.Request = type(stock.__name__, (SettledRevocation, stock), {"__module__": stock.__module__})
