"""redis-py clients for a broker that may refuse to write for a while, and for a heartbeat that has no time to wait.

A replica that was the master a moment ago (READONLY), a full Redis (OOM), one that cannot write to its disk (MISCONF):
redis-py raises these as faults of the command, and Celery ends the worker. Here they are what they mean: a broker that
is not to be had just now. The worker keeps what it runs, connects anew until somebody answers, and finds the new master
where the address has moved.

Imports redis: the user's own, after patching.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.transport import redis as stock

HEARTBEAT_TIMEOUT_SECONDS = 2.0
"""For connecting and for the answer to a heartbeat. Others take over 20 s after the last one: within that time a
connection that has gone silent is given up and a new one is tried, several times over.
"""

_STATES = re.compile(
    r"\b(READONLY|OOM|MISCONF|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|BUSY)\b|read only replica|> 'maxmemory'"
)


class UnavailableError(redis.ConnectionError):
    """The broker answers, and takes no writes now."""


def is_unavailable(error: BaseException) -> bool:
    """Whether *error* tells of the state that Redis is in, not of the command. An older Redis puts a script's error
    into a longer text.
    """
    names = {each.__name__ for each in type(error).__mro__}
    return isinstance(error, redis.ResponseError) and bool(
        names & {"ReadOnlyError", "OutOfMemoryError"} or _STATES.search(str(error))
    )


def is_full(error: BaseException) -> bool:
    """Whether Redis has reached its ``maxmemory``."""
    text = f"{error} {error.__cause__}"
    return "maxmemory" in text or "OOM" in text


@contextmanager
def unavailable() -> Iterator[None]:
    """Raises `UnavailableError` for what is one."""
    try:
        yield
    except redis.ResponseError as error:
        if is_unavailable(error):
            raise UnavailableError(f"the broker takes no writes now: {error}") from error
        raise


class Client(redis.Redis):
    """Without a prefix of its own."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As redis-py's; raises `UnavailableError`, after which redis-py opens a new connection."""
        with unavailable():
            return super().parse_response(connection, command_name, **options)


class PrefixedClient(stock.PrefixedStrictRedis):
    """kombu's, with a prefix before each key."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As `Client.parse_response`."""
        with unavailable():
            return super().parse_response(connection, command_name, **options)


def client_class(prefix: str) -> Any:
    """What kombu makes its clients of; *prefix* may be empty."""
    return functools.partial(PrefixedClient, global_keyprefix=prefix) if prefix else Client


def impatient(pool: Any, seconds: float = HEARTBEAT_TIMEOUT_SECONDS) -> Any:
    """*pool*, which nobody else uses, with time-outs of so many seconds, those of its Sentinels included, and without
    second attempts.
    """
    sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for each in (pool, *(sentinel.connection_pool for sentinel in sentinels)):
        options = each.connection_kwargs
        options["socket_timeout"] = seconds
        options["retry_on_timeout"] = False
        if "path" not in options:  # of a Unix socket
            options["socket_connect_timeout"] = seconds
    return pool
