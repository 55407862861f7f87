"""Queues of a pool that the broker does not have, in four parts. Pure.

No error: producers and workers create a queue. But a name with a typing error looks the same, for ever. Only RabbitMQ
tells: a queue on Redis that is empty is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

REASON = "QueueMissing"
"""Of `MetricsAvailable`, which stays true, and of the Event."""

MISSING_SECONDS = 60.0
"""A pool may be so young before its missing queues are said: it may be applied before its producers."""


def sentence(queues: Sequence[str]) -> str:
    """What is missing, what that means, and what to do."""
    listed = ", ".join(repr(queue) for queue in queues)
    is_there, it, name = (
        ("which does not exist on the broker yet", "it", "the name")
        if len(queues) == 1
        else ("which do not exist on the broker yet", "them", "the names")
    )
    return (
        f"spec.queues has {listed}, {is_there}: nobody has sent a task there, and the first producer or worker creates "
        f"{it}; if tasks are sent already, correct {name}."
    )


def sentence_at(age_seconds: float, queues: Sequence[str]) -> str:
    """The same of a pool of that age; "" for one that has just been made, and where no queue is missing."""
    return sentence(queues) if queues and age_seconds >= MISSING_SECONDS else ""
