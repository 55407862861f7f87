"""Depth on Redis: a queue is one list per priority, and what is fetched but not acknowledged lies in one hash."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from greenworker.brokers.dead_letters import DeadLetter, key
from greenworker.brokers.suspicion import HEADER
from greenworker.exporter.broker import TIMEOUT_SECONDS, Depth, Queue
from greenworker.tls import Trust, checks, checks_name, redis_options, wishes

SEPARATOR = "\x06\x16"
"""Between a queue's name and its priority step (kombu's ``sep``)."""

UNACKED_EVERY_SECONDS = 5.0
UNACKED_SCAN_LIMIT = 5_000
"""Entries looked at to divide the shared hash among queues; a larger one is extrapolated."""

COUNT_BY_ROUTING_KEY = r"""
-- How many of the unacknowledged messages each queue has, by its name in JSON: the last text of an entry, which
-- begins behind the last quote that is not escaped and has a comma after it.   KEYS: unacked   ARGV: cursor, entries
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local counts, seen = {}, 0
for i = 2, #found[2], 2 do
  local key = string.match(found[2][i], '^.*[^\\]",%s*"(.*)"%]$')
  if key then counts[key] = (counts[key] or 0) + 1 end
  seen = seen + 1
end
local out = {found[1], seen}
for key, count in pairs(counts) do
  out[#out + 1] = key
  out[#out + 1] = count
end
return out
"""

REQUEUE_ENTRY = """
-- A dead letter goes back to its queue, in one step; not at all if it is no dead letter any more.
-- KEYS: dead letters, the queue's list   ARGV: entry, payload
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""


class RedisBroker:
    """One client; two round trips a poll."""

    at_once = 1_000_000

    def __init__(self, url: str, trust: Trust) -> None:
        self.client: Any = client_for(url, trust)
        self.client.ping()
        self.count_by_key: Any = self.client.register_script(COUNT_BY_ROUTING_KEY)
        self._unacked: dict[str, dict[str, int]] = {}
        self._unacked_at = 0.0

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`."""
        pipeline = self.client.pipeline(transaction=False)
        for queue in queues:
            for step in queue.priority_steps:
                pipeline.llen(list_key(queue, step))
        for queue in queues:
            pipeline.llen(key(queue.key_prefix, queue.name))
        lengths = iter(pipeline.execute())
        ready = {queue.name: sum(next(lengths) for _ in queue.priority_steps) for queue in queues}
        dead = {queue.name: next(lengths) for queue in queues}
        if monotonic() - self._unacked_at >= UNACKED_EVERY_SECONDS or not self._unacked_at:
            prefixes = {queue.key_prefix for queue in queues}
            self._unacked = {prefix: self._unacked_by_key(prefix) for prefix in prefixes}
            self._unacked_at = monotonic()
        return {
            queue.name: Depth(
                ready[queue.name],
                self._unacked.get(queue.key_prefix, {}).get(queue.name, 0),
                dead=dead[queue.name],
            )
            for queue in queues
        }

    def identity(self) -> str:
        """See `failover.Member`."""
        replication = self.client.info("replication")
        return str(replication["master_replid"]) if replication["role"] == "master" else ""

    def _unacked_by_key(self, prefix: str) -> dict[str, int]:
        key = f"{prefix}unacked"
        total = self.client.hlen(key)
        if not total:
            return {}
        counts: dict[str, int] = {}
        seen, cursor = 0, b"0"
        while seen < UNACKED_SCAN_LIMIT:
            answer = self.count_by_key(keys=[key], args=[cursor, 500])
            cursor = answer[0]
            seen += answer[1]
            for routing_key, count in zip(answer[2::2], answer[3::2], strict=True):
                name = text_of(routing_key)
                counts[name] = counts.get(name, 0) + count
            if cursor == b"0":
                return counts
        return {name: round(count * max(1.0, total / seen)) for name, count in counts.items()}

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """See `Broker.count_dead_letters`: `depths` has asked."""

    def dead_letters(self, queue: Queue) -> RedisLetters:
        """See `Broker.dead_letters`."""
        return RedisLetters(self.client, queue)

    def close(self) -> None:
        """See `Broker.close`."""
        with suppress(Exception):  # it is gone either way
            self.client.close()


def text_of(encoded: bytes) -> str:
    """A JSON string without its quotes: JSON writers differ in what they escape."""
    text = encoded.decode(errors="replace")
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def list_key(queue: Queue, step: int) -> str:
    """The list of one priority step; the first step's has no suffix."""
    return f"{queue.key_prefix}{queue.name}{SEPARATOR}{step}" if step else f"{queue.key_prefix}{queue.name}"


def client_for(url: str, trust: Trust) -> redis.Redis:
    """A client for a broker URL as Celery reads it; of several, only those of Sentinels belong to one client."""
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    parts = url.split(";")
    if url.startswith("sentinel://"):
        return sentinel_client(parts, options)
    address = parts[0].partition("?")[0]
    if address.startswith("rediss://"):
        options |= tls_options(url, trust)
    return redis.Redis.from_url(address, **options)


def tls_options(url: str, trust: Trust) -> dict[str, Any]:
    """Options of redis-py: the resource's, and what the URL says itself."""
    said = wishes(url)
    if not checks(said):
        return redis_options(Trust(skip_verify=True))
    authority: dict[str, Any] = (
        {"ssl_ca_certs": said["ssl_ca_certs"]} if trust.ca_file is None and "ssl_ca_certs" in said else {}
    )
    own: dict[str, Any] = {name: said[name] for name in ("ssl_certfile", "ssl_keyfile") if name in said}
    name: dict[str, Any] = {} if checks_name(said) else {"ssl_check_hostname": False}
    return {**redis_options(trust), **authority, **own, **name}


def masters_known_to(sentinel: Sentinel) -> list[Any]:
    """Names, from the first Sentinel that answers."""
    last: Exception | None = None
    for one in sentinel.sentinels:
        try:
            return list(one.sentinel_masters())
        except redis.exceptions.RedisError as error:
            last = error
    raise redis.exceptions.ConnectionError("no Sentinel answers") from last


def sentinels(addresses: list[tuple[str, int]], options: dict[str, Any], login: dict[str, Any]) -> Sentinel:
    """Without a password; with the URL's own if they ask for one: charts give both the same."""
    plain = Sentinel(addresses, sentinel_kwargs=options, **options)
    for one in plain.sentinels:
        try:
            one.ping()
        except redis.exceptions.AuthenticationError:
            return Sentinel(addresses, sentinel_kwargs={**options, **login}, **options)
        except redis.exceptions.RedisError:
            continue
        break
    return plain


def sentinel_client(urls: list[str], options: dict[str, Any]) -> redis.Redis:
    """The master that the Sentinels know; ``?master_name=`` if they know several. Everything else is in the
    first URL.
    """
    parsed = [urlsplit(url) for url in urls if url]
    first = parsed[0]
    login = {"username": first.username, "password": first.password}
    login = {name: unquote(value) for name, value in login.items() if value}
    sentinel = sentinels([(part.hostname or "localhost", part.port or 26379) for part in parsed], options, login)
    name = next((found for part in parsed for found in parse_qs(part.query).get("master_name", ())), "")
    if not name:
        known = masters_known_to(sentinel)
        if len(known) != 1:
            raise ValueError(f"the Sentinels know {len(known)} masters; add ?master_name= to the URL")
        name = str(known[0])
    database = int(first.path.strip("/") or 0)
    master: redis.Redis = sentinel.master_for(name, redis.Redis, db=database, **login, **options)
    return master


class RedisLetters:
    """Dead letters: entries of a list. See `broker.Letters`."""

    def __init__(self, client: Any, queue: Queue) -> None:
        self.client = client
        self.queue = queue
        self.key = key(queue.key_prefix, queue.name)

    def each(self) -> Iterator[DeadLetter]:
        for _, letter in self._entries():
            yield letter

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        taken = []
        for entry, letter in self._entries():
            if identity and letter.id != identity:
                continue
            if requeue and letter.foreign:
                if identity:
                    raise ValueError(f"{identity} is {letter.reason}: no worker can run it, so drop it")
                continue
            if requeue:
                payload, priority = renewed(letter.payload)
                keys = [self.key, self._list_of(priority)]
                count = self.client.eval(REQUEUE_ENTRY, 2, *keys, entry, payload)
            else:
                count = self.client.lrem(self.key, 1, entry)
            if count:
                taken.append(letter)
        return taken

    def _entries(self) -> list[tuple[bytes, DeadLetter]]:
        entries = self.client.lrange(self.key, 0, -1)
        return [(entry, DeadLetter.of_entry(entry, self.queue.name)) for entry in entries]

    def _list_of(self, priority: int) -> str:
        steps = self.queue.priority_steps
        return list_key(self.queue, steps[max(0, bisect_right(steps, priority) - 1)])


def renewed(payload: bytes) -> tuple[bytes, int]:
    """A message on Redis as if it had never been delivered, and its priority. One that is not kombu's stays as
    it is.
    """
    try:
        message = json.loads(payload)
        properties = message["properties"]
        for headers in (message["headers"], properties.get("delivery_info") or {}):
            headers.pop(HEADER, None)
            headers.pop("redelivered", None)
        return json.dumps(message).encode(), int(properties.get("priority") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return payload, 0
