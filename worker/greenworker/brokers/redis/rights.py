"""What a worker may do on Redis, asked before it takes a message: a script that is stopped half-way by an access list
would have popped one.

docs/worker.md lists the rights.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from greenworker.brokers.parts import broker_field
from greenworker.misconfigured import MisconfiguredError, or_exit

ATTEMPT = """
-- Which of the commands below are refused to this user.   KEYS: one of ours, which does not exist
local refused = {}
local function attempt(...)
  local answer = redis.pcall(...)
  local problem = type(answer) == 'table' and answer.err
  if problem and (string.find(problem, 'NOPERM') or string.find(problem, "can't run this command")) then
    refused[#refused + 1] = string.lower((...))
  end
end
local key = KEYS[1]
"""

COMMANDS = (
    ATTEMPT
    + """
attempt('TIME')
attempt('EXISTS', key)
attempt('RPUSH', key, 'x')
attempt('RPOP', key)
attempt('LPUSH', key, 'x')
attempt('RPOP', key)
attempt('HSET', key, 'x', 'x')
attempt('HSETNX', key, 'x', 'x')
attempt('HGET', key, 'x')
attempt('HKEYS', key)
attempt('HDEL', key, 'x')
attempt('ZADD', key, 0, 'x')
attempt('ZSCORE', key, 'x')
attempt('ZRANGEBYSCORE', key, 0, 0)
attempt('ZREM', key, 'x')
return refused
"""
)
"""Those that our scripts use."""

MAILBOX_COMMANDS = (
    ATTEMPT
    + """
attempt('SADD', key, 'x')
attempt('SMEMBERS', key)
attempt('SREM', key, 'x')
attempt('LLEN', key)
return refused
"""
)
"""Those that remote control needs beside them."""

TOUCH = "return #KEYS"
"""A script that asks for its keys and does nothing with them."""

NO_MAILBOX = "NOPERM: its Redis user may not use Celery's remote control (inspect, revoke)"

ANSWER_SECONDS = 5.0
"""For the answer to a subscription; one that comes later is left to whoever listens there."""

MAILBOX_FIX = (
    "give the user the keys, channels and commands for remote control that docs/worker.md lists under Rights on "
    "Redis (ACL SETUSER), "
    "or set spec.worker.remoteControl to Disabled"
)

FIX = (
    "give the user the commands and keys that docs/worker.md lists under Rights on Redis (ACL SETUSER), with the "
    "broker's key prefix"
)


def check_rights(client: Any, probe: str, keys: Iterable[str]) -> None:
    """Raises `MisconfiguredError` if the user of *client* may not run our scripts, a command in them, or use one of
    *keys*. *probe*: a key of ours that does not exist.
    """
    problem = "its Redis user may not run scripts"
    command = "evalsha"
    try:
        if refused := _refused(client, COMMANDS, probe):
            raise misconfigured(
                client, f"NOPERM: its Redis user may not run {refused}, which the worker's scripts need"
            )
        problem, command = "its Redis user may not use a key", ""
        client.register_script(TOUCH)(keys=list(keys))
    except redis.exceptions.NoPermissionError as error:
        raise misconfigured(
            client, f"NOPERM: {problem}: {_which(client, [probe, *keys]) or command}: {error}"
        ) from error


def check_mailbox(client: Any, probe: str, keys: Iterable[str], topic: str) -> None:
    """As `check_rights`, for Celery's remote control: without one of these rights revoking a task would have no effect.
    *topic*: the channel that the worker subscribes to.
    """
    keys = list(keys)
    problem = ""
    subscriber = client.pubsub()
    try:
        if refused := _refused(client, MAILBOX_COMMANDS, probe):
            raise misconfigured(client, f"{NO_MAILBOX}: it may not run {refused}", MAILBOX_FIX)
        client.register_script(TOUCH)(keys=keys)
        problem = f"channel {topic!r}: "
        subscriber.psubscribe(topic)
        subscriber.parse_response(block=False, timeout=ANSWER_SECONDS)
    except redis.exceptions.NoPermissionError as error:
        which = problem or f"{_which(client, keys)}: "
        raise misconfigured(client, f"{NO_MAILBOX}: {which}{error}", MAILBOX_FIX) from error
    finally:
        subscriber.close()


def _refused(client: Any, script: str, probe: str) -> str:
    """The commands of *script* that are refused, in words; empty if none is."""
    refused = client.register_script(script)(keys=[probe])
    return ", ".join(sorted({name.decode() if isinstance(name, bytes) else name for name in refused}))


def misconfigured(client: Any, reason: str, fix: str = FIX) -> MisconfiguredError:
    """In four parts."""
    user = client.connection_pool.connection_kwargs.get("username") or "default"
    return MisconfiguredError(broker_field("username"), f"user {user}", reason, fix)


def _which(client: Any, keys: Iterable[str]) -> str:
    """The first of *keys* that is refused; empty if none is by itself."""
    for key in keys:
        try:
            client.register_script(TOUCH)(keys=[key])
        except redis.exceptions.NoPermissionError as error:
            return "" if "command" in str(error) else f"key {key!r}"
    return ""


@contextmanager
def refusing(client: Any, keys: Iterable[str]) -> Iterator[None]:
    """Ends the worker in four parts where Redis refuses a right; *keys*: those that the block uses."""
    try:
        yield
    except redis.exceptions.NoPermissionError as error:
        or_exit(_refuse, client, list(keys), error)


def _refuse(client: Any, keys: list[str], error: Exception) -> None:
    which = _which(client, keys)
    raise misconfigured(
        client, f"NOPERM: its Redis user may not do what the worker needs{': ' if which else ''}{which}: {error}"
    )
