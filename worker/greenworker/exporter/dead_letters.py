"""``python -m greenworker.exporter.dead_letters list --queue feeds``: dead letters of the exporter's broker, for people.

Runs beside the exporter, which has the broker's URL. Answers are JSON on standard output; what went wrong is one line on
standard error, without credentials, and exit status 1.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import json
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

from greenworker.brokers.dead_letters import AT, DELIVERIES, OURS, QUEUE, REASON, DeadLetter, key, rabbit_queue
from greenworker.brokers.suspicion import HEADER
from greenworker.exporter.broker import TIMEOUT_SECONDS, Queue, connect
from greenworker.exporter.exporter import Options, parse_queues
from greenworker.protocol import number_of
from greenworker.redaction import redacted

REQUEUE_ENTRY = """
-- A dead letter goes back to its queue, in one step; not at all if it is no dead letter any more.
-- KEYS: dead letters, the queue's list   ARGV: entry, payload
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""

PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id", "timestamp")
"""AMQP properties that travel along. An ``expiration`` does not: a person decides now."""

TEXT_LIMIT_BYTES = 4096
"""Of a message that `show` prints."""


class Letters(Protocol):
    """The dead letters of one queue."""

    def each(self) -> Iterator[DeadLetter]:
        """All of them, oldest first. They stay."""

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        """Requeue or drop the ones of a task id, or all with an empty one; those that were."""


class RedisLetters:
    """Entries of a list."""

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
        return [(entry, DeadLetter.from_json(entry)) for entry in self.client.lrange(self.key, 0, -1)]

    def _list_of(self, priority: int) -> str:
        from greenworker.exporter.redis import list_key  # noqa: PLC0415 - only the library that is needed

        steps = self.queue.priority_steps
        return list_key(self.queue, steps[max(0, bisect_right(steps, priority) - 1)])


def renewed(payload: bytes) -> tuple[bytes, int]:
    """A message on Redis as if it had never been delivered, and its priority. One that is not kombu's stays as it is."""
    try:
        message = json.loads(payload)
        properties = message["properties"]
        for headers in (message["headers"], properties.get("delivery_info") or {}):
            headers.pop(HEADER, None)
            headers.pop("redelivered", None)
        return json.dumps(message).encode(), int(properties.get("priority") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return payload, 0


class RabbitLetters:
    """Messages of a queue. To look at one it is taken and published again at the tail: a quorum queue counts what is only
    returned, and would drop what was looked at too often.
    """

    def __init__(self, connection: Any, queue: Queue) -> None:
        self.connection = connection
        self.queue = queue
        self.name = rabbit_queue(queue.name)

    def each(self) -> Iterator[DeadLetter]:
        for channel, message in self._round():
            self._publish(channel, message, self.name, message.headers)
            message.ack()
            yield letter_of(message, self.queue.name)

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        taken = []
        for channel, message in self._round():
            letter = letter_of(message, self.queue.name)
            if identity and letter.id != identity:
                self._publish(channel, message, self.name, message.headers)
            else:
                if requeue:
                    headers = {name: value for name, value in message.headers.items() if name not in OURS}
                    self._publish(channel, message, self.queue.name, headers)
                taken.append(letter)
            message.ack()
        return taken

    def _round(self) -> Iterator[tuple[Any, Any]]:
        """Each message that there is now, once. What is not acknowledged goes back."""
        from amqp.exceptions import NotFound  # noqa: PLC0415 - only the library that is needed

        channel = self.connection.channel()
        try:
            count = channel.queue_declare(queue=self.name, passive=True).message_count
        except NotFound:
            return
        for _ in range(count):
            raw = channel.basic_get(self.name)
            if raw is None:
                break
            yield channel, channel.message_to_python(raw)
        channel.close()

    def _publish(self, channel: Any, message: Any, queue: str, headers: Mapping[str, Any]) -> None:
        """With the broker's confirmation, so that nothing is lost between this and the acknowledgement."""
        properties = {name: message.properties[name] for name in PROPERTIES if message.properties.get(name) is not None}
        self.connection.Producer(channel, auto_declare=False).publish(
            message.body, exchange="", routing_key=queue, mandatory=True, timeout=TIMEOUT_SECONDS,
            headers={name: value for name, value in headers.items() if name != "compression"},
            content_type=message.content_type, content_encoding=message.content_encoding, **properties,
        )  # fmt: skip


class SeveralLetters:
    """Those of several servers that are one broker."""

    def __init__(self, parts: Sequence[Letters]) -> None:
        self.parts = parts

    def each(self) -> Iterator[DeadLetter]:
        for part in self.parts:
            yield from part.each()

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        return [letter for part in self.parts for letter in part.take(identity, requeue=requeue)]


def letter_of(message: Any, queue: str) -> DeadLetter:
    """What the message's headers say; also of one that somebody else put there."""
    headers = message.headers or {}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    return DeadLetter(
        str(headers.get(QUEUE) or queue), str(headers.get("task") or ""),
        str(headers.get("id") or message.properties.get("correlation_id") or ""), str(headers.get(REASON) or ""),
        _number(headers.get(AT)), int(_number(headers.get(DELIVERIES))), body,
    )  # fmt: skip


def _number(text: Any) -> float:
    return number_of(text) or 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m greenworker.exporter.dead_letters")
    parser.add_argument("action", choices=("list", "show", "requeue", "drop"))
    parser.add_argument("id", nargs="?", default="", help="of the task; every one's if it is left out (list, requeue)")
    parser.add_argument("--queue", action="append", default=[], required=True)
    options = parser.parse_args(argv)
    if options.action in ("show", "drop") and not options.id:
        parser.error(f"{options.action} needs the id of a task: `list` shows them")
    try:
        found = run(options.action, options.id, options.queue, os.environ)
    except Exception as error:
        sys.stderr.write(redacted(f"{type(error).__name__}: {error}") + "\n")
        return 1
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def run(action: str, identity: str, wanted: Sequence[str], environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Do it for the *wanted* queues; the dead letters that were listed, shown, requeued or dropped."""
    options = Options.read(environ)
    queues = options.queues
    if queues is None:
        queues = parse_queues(options.queues_file.read_text() if options.queues_file.exists() else "[]")
    known = {queue.name: queue for queue in queues}
    url = options.url_file.read_text().strip()
    found: list[dict[str, Any]] = []
    with closing(connect(url, options.trust)) as broker:
        for name in wanted:
            letters = broker.dead_letters(known.get(name) or Queue(name))
            if action in ("requeue", "drop"):
                found += [letter.shown() for letter in letters.take(identity, requeue=action == "requeue")]
            else:
                some = [letter for letter in letters.each() if not identity or letter.id == identity]
                found += [shown(letter) if action == "show" else letter.shown() for letter in some]
    return found


def shown(letter: DeadLetter) -> dict[str, Any]:
    """With the beginning of its message."""
    return {**letter.shown(), "message": letter.payload[:TEXT_LIMIT_BYTES].decode(errors="replace")}


if __name__ == "__main__":
    sys.exit(main())
