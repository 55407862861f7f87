"""Where a message goes that no worker can run: a Redis list beside its queue, for people to look at and to requeue.

``<prefix>greenworker.dead.<queue>`` holds JSON objects, the newest last. Standard library only.
"""

from __future__ import annotations

from base64 import b64encode
from json import dumps

METRIC = "greenworker_dead_letters_total"
HELP = "Messages that no worker can run, moved to the dead letters of their queue."

UNDECODABLE = "undecodable"
"""The message is no JSON that Python can read, or has no properties: no kombu message."""
REFUSED = "refused"
"""Celery raised while it took the message: a header of a wrong type, for instance."""


def key(prefix: str, queue: str) -> str:
    """The Redis key of the dead letters of *queue*; *prefix* is the broker's key prefix."""
    return f"{prefix}greenworker.dead.{queue}"


def entry(payload: bytes, *, queue: str, reason: str, at: float, deliveries: int) -> str:
    """One dead letter. *payload*: the message as it was in its queue, *at*: Unix seconds, *deliveries*: how often it was given
    to a worker, as far as is known; *reason* begins with the word that the metric has.
    """
    letter = {
        "payload": b64encode(payload).decode(), "queue": queue, "reason": reason, "at": round(at, 3),
        "deliveries": deliveries,
    }  # fmt: skip
    return dumps(letter)
