"""Times as the API writes them. Pure."""

from __future__ import annotations

import datetime


def rfc3339(seconds: float) -> str:
    """A Unix time the way the API writes it."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_time(text: str) -> float:
    """The Unix time of an RFC 3339 time stamp."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
