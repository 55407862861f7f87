"""The one task: fetch a feed, look at it, write it down."""

from __future__ import annotations

import http.client
import os
import time
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

import redis

from .celery import app
from .client import FeedClient
from .ledger import Execution, Ledger

PUBLISHED_AT = "greenfleet-published-at"
"""Message header with the Unix time of publishing: what makes waiting time measurable."""

TEMPORARY = (OSError, http.client.HTTPException, redis.ConnectionError, redis.TimeoutError)
"""What is worth another try: the other side was not there, or went away."""


@cache
def feeds() -> FeedClient:
    """One client for all green threads of this process."""
    return FeedClient(os.environ.get("FEEDS_URL", "http://localhost:8080"))


@cache
def ledger() -> Ledger:
    """One ledger for all green threads of this process."""
    return Ledger.connect(os.environ.get("LEDGER_URL", "redis://localhost:6379/1"))


# What is worth another try comes back to the queue with a delay, and is not lost.
RETRY: dict[str, Any] = {"autoretry_for": TEMPORARY, "max_retries": 8, "retry_backoff": 1, "retry_backoff_max": 30}


@app.task(bind=True, name="feedhub.fetch", **RETRY)  # type: ignore[untyped-decorator]
def fetch(self: Any, number: int, run: str) -> None:
    """Fetch feed `number` for the run `run`.

    The entry in the ledger is the very last act: a task that was interrupted anywhere before has no entry, one that was
    delivered twice has two. It runs twice without harm, as every task should.
    """
    started = time.time()
    published = float(self.request.headers.get(PUBLISHED_AT, started))
    entries = count_entries(feeds().get(f"/feeds/{number}"))
    ledger().record(run, Execution(self.request.id, started, started - published, time.time() - started, entries))


def count_entries(document: bytes) -> int:
    """How many entries the feed has; a document that is no feed is a bug, not a thing to try again."""
    root = ET.fromstring(document)
    return len(root.findall("{http://www.w3.org/2005/Atom}entry"))
