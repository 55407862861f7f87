"""How a task ended, by the name of the state that Celery gives it."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Reject, Retry

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
KILLED = "KILLED"
"""Ended by the drain, a hard time limit or a revoke; Celery's own states cover the rest."""


def outcome(result: Any) -> str:
    """Celery's state for what its tracer returned: ``(failed, value, runtime)``."""
    failed, value, _ = result
    return outcome_of_error(getattr(value, "exception", None)) if failed else SUCCESS


def unwrapped(error: Any) -> Any:
    """The task's own exception: billiard wraps one that has not crossed a process border."""
    return error.exc if type(error).__name__ == "ExceptionWithTraceback" else error


def exception_name(error: Any) -> str:
    """The class of the exception that left a task."""
    return type(unwrapped(error)).__name__


def outcome_of_error(error: Any) -> str:
    """Celery's state for an exception that left a task."""
    error = unwrapped(error)
    for kind, state in ((Retry, "RETRY"), (Reject, "REJECTED"), (Ignore, "IGNORED")):
        if isinstance(error, kind):
            return state
    return KILLED if type(error).__name__ in ("TimeLimitExceeded", "Terminated") else FAILURE
