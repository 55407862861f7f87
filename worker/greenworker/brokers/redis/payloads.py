"""What is written into a message of kombu, or beside it, when it is booked and when it goes back."""

from __future__ import annotations

from functools import lru_cache
from json import dumps, loads


def redelivered(payload: bytes) -> bytes:
    """The same message, marked as kombu marks one that had been delivered before; what cannot be marked stays
    as it is.
    """
    try:
        message = loads(payload)
        properties = message.get("properties")
        info = properties.get("delivery_info") if isinstance(properties, dict) else None
        for part in (message.get("headers"), info):
            if isinstance(part, dict):
                part["redelivered"] = True
        return dumps(message).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return payload


@lru_cache(maxsize=4096)
def json_name(queue: str) -> str:
    """The name of a queue as JSON has it, with as little escaped as possible: the exporter compares it with the
    name.
    """
    return dumps(queue, ensure_ascii=False)
