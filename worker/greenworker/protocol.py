"""What a message says of its task, in either of Celery's protocols.

Protocol 2 has the task's name in the headers. Protocol 1, which old producers and several clients in other languages
write, has it in the body; kombu keeps what it has decoded, so that Celery does not decode it again. Standard library
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

UNKNOWN = "unknown"
"""The name of what says none: Celery reports such a message, and discards it."""


class Head(NamedTuple):
    """*task* is empty and *eta* None where the message does not say; *eta* is ISO 8601 as a rule, and whatever was
    sent.
    """

    task: str
    eta: Any


def head_of(message: Any) -> Head:
    """Never raises: what cannot be read, or may not be decoded, is left to Celery, which says what it thinks of it."""
    headers = message.headers
    if isinstance(headers, Mapping) and "task" in headers:
        said: Any = headers
    else:
        try:
            said = message.decode()
        except Exception:
            return Head("", None)
    if not isinstance(said, Mapping):
        return Head("", None)
    task = said.get("task")
    return Head(task if isinstance(task, str) else "", said.get("eta"))


def number_of(said: Any) -> float | None:
    """A finite number that a message says, or the Unix seconds of a date; None for anything else. Anybody may have
    written it.
    """
    try:
        number = float(said.timestamp() if hasattr(said, "timestamp") else said)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return number if isfinite(number) else None
