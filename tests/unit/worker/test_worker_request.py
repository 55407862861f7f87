"""Which failures of a task mean that the broker did not take what the task publishes at its end."""

from __future__ import annotations

from types import SimpleNamespace

from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from greenworker.pool.request import was_not_published
from greenworker.pool.retries import UNPUBLISHED


def ended_with(error: Exception, *, internal: bool = False) -> SimpleNamespace:
    return SimpleNamespace(exception=error, internal=internal)


def test_a_tasks_own_reject_is_obeyed_whatever_its_reason() -> None:
    assert not was_not_published(ended_with(Reject(OSError("no memory"), requeue=False), internal=True))
    assert not was_not_published(ended_with(Reject(OperationalError("a broker of its own"), requeue=False)))


def test_a_retry_that_could_not_be_published_is_told_by_its_mark() -> None:
    error = Reject(OperationalError("gone"), requeue=False)
    setattr(error, UNPUBLISHED, True)
    assert was_not_published(ended_with(error))


def test_a_tasks_own_error_of_the_broker_is_its_failure() -> None:
    assert not was_not_published(ended_with(OperationalError("gone")))
    assert was_not_published(ended_with(OperationalError("gone"), internal=True))
