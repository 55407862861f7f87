"""RETRY is stored before the retry is published, so that a state never goes back from SUCCESS to RETRY.

Celery's ``Task.retry`` publishes, and its tracer stores RETRY when the exception has left the task. A publisher confirm
or a slow result backend between the two lets the retried task finish first: RETRY is stored over its SUCCESS and stays
for ever. A result backend that is shared by the green threads makes that likelier, because the SUCCESS is stored faster
then.

The seam is the public ``Task.retry`` of each task, whoever wrote it: only there are both the exception and the moment
before the publish known. The tracer's own store of the same RETRY is left out.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

from celery.app.task import Task
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from celery.utils.log import get_logger

from greenworker.compat import result_is_ignored

logger = get_logger(__name__)

STORED = "_retry_is_stored"
"""Attribute of the running task's request."""

UNPUBLISHED = "_retry_is_unpublished"
"""Attribute of the `Reject` that Celery raises where it could not publish a retry."""


def store_retries_first(app: Any) -> None:
    """For all tasks of *app*; before processes are forked, which inherit it."""
    for task in app.tasks.values():
        if not hasattr(task.retry, STORED):
            task.retry = _storing_first(task, task.retry)


def _storing_first(task: Any, stock: Callable[..., Any]) -> Callable[..., Any]:
    def retry(  # noqa: PLR0917 - Celery's signature
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        request = task.request
        if throw and _will_publish(task, request, max_retries) and _stores(task, request):
            _store(task, request, exc, eta or countdown)
        try:
            return stock(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        except Reject as error:
            setattr(error, UNPUBLISHED, True)  # a task's own Reject looks the same
            raise

    retry.__doc__ = Task.retry.__doc__
    setattr(retry, STORED, True)
    return retry


def _will_publish(task: Any, request: Any, max_retries: int | None) -> bool:
    """Celery raises instead where the task runs by itself, or has been retried often enough."""
    if request.called_directly or request.is_eager:
        return False
    most = task.max_retries if max_retries is None else max_retries
    return most is None or request.retries + 1 <= most


def _stores(task: Any, request: Any) -> bool:
    """As the tracer decides it."""
    return not result_is_ignored(task, request) or bool(task.store_errors_even_if_ignored)


def _store(task: Any, request: Any, exc: Any, when: Any) -> None:
    """Without a result backend the retry is published all the same, and the tracer tries it once more."""
    backend = task.backend
    _store_once(backend)
    try:
        backend.mark_as_retry(request.id, exc, _text(Retry(exc=exc, when=when)), request=request)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        logger.warning("Could not store RETRY of %s[%s] before its retry: %r", task.name, request.id, error)
    else:
        setattr(request, STORED, True)


def _store_once(backend: Any) -> None:
    """Let *backend* leave out what is stored already. Its class may be anybody's, so the instance is changed."""
    stock = backend.mark_as_retry
    if hasattr(stock, STORED):
        return

    def mark_as_retry(task_id: str, exc: Any, traceback: Any = None, request: Any = None, **more: Any) -> Any:
        if request is not None and vars(request).pop(STORED, False):
            return exc
        return stock(task_id, exc, traceback, request=request, **more)

    setattr(mark_as_retry, STORED, True)
    backend.mark_as_retry = mark_as_retry


def _text(reason: Retry) -> str:
    """The traceback as it will be: what is being handled, the task's own frame, the Retry."""
    handled = sys.exc_info()[1]
    before = "".join(traceback.format_exception(handled)) if handled is not None else ""
    again = "\nDuring handling of the above exception, another exception occurred:\n\n" if before else ""
    frames = traceback.format_list(traceback.extract_stack()[-4:-3])
    return (
        f"{before}{again}Traceback (most recent call last):\n{''.join(frames)}{type(reason).__module__}.Retry: "
        f"{reason}\n"
    )
