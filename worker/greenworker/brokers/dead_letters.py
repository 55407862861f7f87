"""Dead letters: messages that were taken out of their queue because no worker can run them.

A dead letter is kept until a person requeues or drops it. On Redis it is an entry of the list `key`, the newest last,
on RabbitMQ a message of the queue `rabbit_queue`. Standard library only: the worker writes them, the command reads
them.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Any

from greenworker.brokers.suspicion import HEADER

SUFFIX = ".dead"
"""Of the queue on RabbitMQ."""


WORKER_LOST = "worker_lost"
"""Reason: processes ended while they ran nothing but this task."""

UNDECODABLE = "undecodable"
"""Reason: the message is no JSON that Python can read, or has no properties: no kombu message."""
REFUSED = "refused"
"""Reason: Celery raised while it took the message: a header of a wrong type, for instance."""

FOREIGN = "foreign"
"""Reason of an entry on Redis that no worker has written. The metric does not have it."""

REASON_CHARACTERS = 500
"""Of an error that a dead letter quotes: it may quote the message."""

REASON, AT, DELIVERIES, QUEUE = (
    "greenfleet-dead-reason", "greenfleet-dead-at", "greenfleet-dead-deliveries", "greenfleet-dead-queue",
)  # fmt: skip
"""Message headers on RabbitMQ."""

OURS = (REASON, AT, DELIVERIES, QUEUE, HEADER)
"""Headers that a requeued message does not have any more."""


def key(prefix: str, queue: str) -> str:
    """The Redis key of the dead letters of *queue*; *prefix* is the broker's key prefix."""
    return f"{prefix}greenworker.dead.{queue}"


def entry(payload: bytes, *, queue: str, reason: str, at: float, deliveries: int) -> str:
    """One that nobody can read. *payload*: the message as it was in its queue, *at*: Unix seconds, *deliveries*: how
    often it was given to a worker, as far as is known; *reason* begins with the word that the metric has.
    """
    return DeadLetter(queue, "", "", reason, round(at, 3), deliveries, payload).to_json()


def rabbit_queue(queue: str) -> str:
    """The queue of a queue's dead letters."""
    return queue + SUFFIX


def refusal(kind: str, error: BaseException) -> str:
    """The reason of a dead letter: *kind* is `UNDECODABLE` or `REFUSED`."""
    return f"{kind}: {type(error).__name__}: {error}"[:REASON_CHARACTERS]


def named(payload: bytes) -> str:
    """What a person calls a message without an id."""
    return sha256(payload).hexdigest()[:16]


def sentence(queue: str, deaths: int) -> str:
    """Why, for the result backend and the log."""
    return (
        f"{deaths} worker processes ended while they ran this task and nothing else: its message is a dead letter "
        "of queue "
        f"{queue} now; kubectl greenfleet dead-letters lists it, and requeues it once the task is repaired"
    )


@dataclass(frozen=True)
class DeadLetter:
    """One of them. *payload* is what the broker had, *at* Unix seconds, *deliveries* the processes that ended."""

    queue: str
    task: str
    id: str
    reason: str
    at: float
    deliveries: int
    payload: bytes = b""

    def to_json(self) -> str:
        """An entry of the list on Redis."""
        return json.dumps({**self.shown(), "payload": b64encode(self.payload).decode()})

    @classmethod
    def from_json(cls, text: str | bytes) -> DeadLetter:
        """The inverse. Raises ValueError for what is no such entry."""
        try:
            found = json.loads(text)
            payload = b64decode(found["payload"])
            at = float(found["at"])
            if not isfinite(at):
                raise ValueError(f"no moment is {at}")
            return cls(
                str(found["queue"]),
                str(found.get("task") or ""),
                str(found.get("id") or named(payload)),
                str(found["reason"]),
                at,
                int(found["deliveries"]),
                payload,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a dead letter: {error!r}") from error

    @classmethod
    def of_entry(cls, entry: bytes, queue: str) -> DeadLetter:
        """Any entry of the list of *queue* on Redis: one that is no dead letter is its own payload, so that a person
        can see and drop it.
        """
        try:
            return cls.from_json(entry)
        except ValueError as error:
            return cls(queue, "", named(entry), refusal(FOREIGN, error), 0.0, 0, entry)

    @property
    def foreign(self) -> bool:
        """Whether no worker has written it."""
        return self.reason.startswith(f"{FOREIGN}: ")

    def shown(self) -> dict[str, Any]:
        """Without the payload."""
        return {
            "queue": self.queue, "task": self.task, "id": self.id, "reason": self.reason, "at": self.at,
            "deliveries": self.deliveries,
        }  # fmt: skip
