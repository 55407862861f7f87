"""Whether a message is suspected of ending the process that runs it, and how sure that is. Pure; standard library only.

A process that dies does not say which task ended it: any that ran in it may have. So each message carries its own
record, in a header:

- *deaths*: processes that ended while they held it, with others beside it. One is an accident (a node is lost). From
  `SUSPECT_DEATHS` on the message is a suspect, and runs apart from everything else.
- *attempts*: runs apart that were begun, written before they begin and taken back when they end in any other way. The
  first may have a few other suspects beside it, each further one has none. So only the cause gets beyond the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from json import dumps, loads
from time import time
from typing import Any

HEADER = "greenfleet-suspicion"
"""Message header: ``deaths attempts seen``, decimal numbers; *seen* is the Unix second of the last death. *survived* is
a fourth number, if it is not 0.
"""

SUSPECT_DEATHS = 2
"""A single death says little and costs much: with it, a lost node would slow its whole pool down."""

MEMORY_SECONDS = 3600
"""Deaths further apart than this are unrelated: brokers restart and nodes go."""

TOGETHER = 10
"""Suspects that run beside each other at their first attempt, so that a hundred harmless ones are not run one
by one.
"""

MOST = 1000
"""Of deaths, attempts and survivals; a record with more was not written by a worker: no cap is above 100."""

LATEST = 2**40
"""Unix seconds that a clock can have."""


@dataclass(frozen=True)
class Suspicion:
    """What is known about one message."""

    deaths: int = 0
    attempts: int = 0
    seen: int = 0
    survived: int = 0
    """Lost connections whose worker lives, which looked like deaths and have been taken back from them."""

    @property
    def suspect(self) -> bool:
        """Whether it has to run apart."""
        return self.deaths >= SUSPECT_DEATHS or self.attempts > 0

    @property
    def deaths_alone(self) -> int:
        """Processes that ended while it ran alone."""
        return max(0, self.attempts - 1)

    def after_death(self, now: float) -> Suspicion:
        """One more process has ended while it held the message."""
        if self.suspect or now - self.seen <= MEMORY_SECONDS:
            return replace(self, deaths=self.deaths + 1, seen=int(now))
        return replace(self, deaths=1, seen=int(now), survived=0)

    def without(self, survivals: int) -> Suspicion:
        """So many connections in all are known to have been lost by workers that live: those were no deaths."""
        taken = min(self.deaths, max(0, survivals - self.survived))
        return replace(self, deaths=self.deaths - taken, survived=self.survived + taken)

    def begun(self, *, alone: bool) -> Suspicion:
        """One more run apart begins."""
        return replace(self, attempts=max(self.attempts, 1) + 1 if alone else max(self.attempts, 1))

    def header(self) -> str:
        """The inverse of `read`."""
        return f"{self.deaths} {self.attempts} {self.seen}{f' {self.survived}' if self.survived else ''}"


NONE = Suspicion()


def read(headers: Any) -> Suspicion:
    """What *headers* say; nothing where they are strange."""
    text = headers.get(HEADER) if isinstance(headers, Mapping) else None
    if text is None:
        return NONE
    try:
        numbers = [max(0, int(word)) for word in str(text).split()]
    except ValueError:
        return NONE
    if len(numbers) not in {3, 4}:
        return NONE
    found = Suspicion(*numbers)
    forged = max(found.deaths, found.attempts, found.survived) > MOST or found.seen > LATEST
    return NONE if forged else found


def may_have_started(headers: Any, now: float) -> bool:
    """False for a message whose ETA has not come: a worker only held it."""
    eta = headers.get("eta") if isinstance(headers, Mapping) else None
    if not eta:
        return True
    try:
        return datetime.fromisoformat(str(eta).replace("Z", "+00:00")).timestamp() <= now
    except (ValueError, OverflowError, OSError):
        return True


def with_header(payload: bytes, suspicion: Suspicion) -> bytes:
    """kombu's JSON of a message on Redis, with this record; as it was where it is not such JSON."""
    try:
        message = loads(payload)
        message["headers"][HEADER] = suspicion.header()
        return dumps(message).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return payload


def after_death(payload: bytes) -> bytes:
    """kombu's JSON of a message that a dead worker held."""
    now = time()
    try:
        headers = loads(payload)["headers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return payload
    return with_header(payload, read(headers).after_death(now)) if may_have_started(headers, now) else payload
