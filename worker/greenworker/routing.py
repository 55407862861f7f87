"""Which tasks belong to the prefork companion, and how a message gets there.

Three sources, any of which suffices: the names and globs of the resource, the author's mark ``@app.task(pool="prefork")``,
and the operator's evidence in the routes file. A message is sent on as it is: body, headers, properties.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from fnmatch import fnmatchcase
from json import dumps, loads
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub
from greenworker.environment import Environment

logger = get_logger(__name__)

SUFFIX = ".prefork"
"""Of the companion's queue."""

RELOAD_SECONDS = 2.0
RETRY_SECONDS = 1.0

PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "message_id", "type", "app_id", "timestamp")
"""AMQP properties that travel along; ``expiration`` does too, in its own unit."""


class Routes:
    """Decides by name. `matches` is asked for every message, so it remembers."""

    def __init__(self, patterns: Iterable[str], routes_file: Path) -> None:
        self.patterns = tuple(patterns)
        self.routes_file = routes_file
        self.evidence: tuple[str, ...] = ()
        self.marked: frozenset[str] = frozenset()
        self._known: dict[str, bool] = {}

    @classmethod
    def of(cls, environment: Environment) -> Routes:
        """From the environment; `reload` reads the file."""
        return cls(environment.prefork_tasks, environment.routes_file)

    def matches(self, task: str) -> bool:
        """True if *task* belongs to the companion."""
        if not (self.patterns or self.evidence or self.marked):
            return False
        known = self._known.get(task)
        if known is None:
            known = task in self.marked or any(fnmatchcase(task, name) for name in (*self.patterns, *self.evidence))
            if len(self._known) < 10_000:
                self._known[task] = known
        return known

    def mark(self, app: Any) -> None:
        """Learn the author's marks from the app's tasks."""
        self.marked = frozenset(name for name, task in app.tasks.items() if getattr(task, "pool", None) == "prefork")
        self._known.clear()

    def reload(self) -> None:
        """Read the evidence; a file that is missing or broken is no evidence, but changes nothing that was read."""
        try:
            names = json.loads(self.routes_file.read_text() or "[]")
        except FileNotFoundError:
            names = []
        except (OSError, ValueError) as error:
            logger.warning("%s is no JSON list of task names: %r", self.routes_file, error)
            return
        if not isinstance(names, list):
            return
        evidence = tuple(str(name) for name in names)
        if evidence != self.evidence:
            self.evidence = evidence
            self._known.clear()

    def watch(self) -> None:
        """For ever, in a green thread."""
        while True:
            self.reload()
            hub.sleep(RELOAD_SECONDS)


class Forwarder:
    """Sends messages on. On Redis one script moves the message; on AMQP: declare, publish with confirm, then ack."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.runtime = consumer.runtime
        self._waiting: deque[tuple[Any, str, str]] = deque()
        self._running = False
        self._connection: Any = None
        self._declared: set[str] = set()

    def take(self, message: Any) -> bool:
        """True if *message* is the companion's; it is on its way then, or already there."""
        headers = message.headers
        task = headers.get("task") if isinstance(headers, dict) else None
        if not task or not self.runtime.routes.matches(task):
            return False
        queue = self._queue_of(message)
        if queue.endswith(SUFFIX):
            return False
        ledger = self.runtime.ledger
        if ledger is not None and message.delivery_tag in ledger.held:
            self._move(message, task, queue + SUFFIX)
        else:
            self._waiting.append((message, task, queue + SUFFIX))
            if not self._running:
                self._running = True
                hub.spawn(self._publish_waiting)
        return True

    def _queue_of(self, message: Any) -> str:
        info = message.delivery_info or {}
        tag = info.get("consumer_tag")
        credits_ = self.consumer.credits
        if credits_ is not None and credits_.queue_of(tag):
            return str(credits_.queue_of(tag))
        for name, active in self.consumer.task_consumer._active_tags.items():
            if active == tag:
                return str(name)
        ledger, channel = self.runtime.ledger, message.channel
        held = ledger.held.get(message.delivery_tag) if ledger is not None else None
        if held is not None:
            name = held.key.removeprefix(channel.global_keyprefix)
            return str(name.rsplit(channel.sep, 1)[0])
        return str(info.get("routing_key") or "")

    def _move(self, message: Any, task: str, target: str) -> None:
        ledger, channel = self.runtime.ledger, message.channel
        payload = loads(ledger.held[message.delivery_tag].payload)
        # Whoever restores it later must put it back there, not here.
        payload["properties"]["delivery_info"] = {"exchange": "", "routing_key": target}
        priority = channel._get_message_priority(payload, reverse=False)
        key = channel.global_keyprefix + channel._q_for_pri(target, priority)
        try:
            ledger.move(message.delivery_tag, key, dumps(payload))
        except Exception:
            ledger.return_later([message.delivery_tag])
            raise
        channel.qos._quick_ack(message.delivery_tag)
        message._state = "ACK"
        self.runtime.accounting.forwarded.add(1, task)

    def _publish_waiting(self) -> None:
        try:
            while self._waiting:
                message, task, target = self._waiting[0]
                try:
                    self._publish(message, target)
                except Exception as error:
                    self._close()
                    logger.warning("Could not forward %s to %s yet: %r", task, target, error)
                    if self.runtime.drain.draining:
                        self._return_all()
                        return
                    hub.sleep(RETRY_SECONDS)
                    continue
                self._waiting.popleft()
                message.ack_log_error(logger, self.consumer.connection_errors)
                self.runtime.accounting.forwarded.add(1, task)
        finally:
            self._running = False

    def _return_all(self) -> None:
        while self._waiting:
            message, _, _ = self._waiting.popleft()
            message.reject_log_error(logger, self.consumer.connection_errors, requeue=True)

    def _publish(self, message: Any, target: str) -> None:
        if self._connection is None:
            self._connection = self.consumer.app.connection_for_write(transport_options={"confirm_publish": True})
            self._declared.clear()
        if target not in self._declared:
            declare(self._connection, target)
            self._declared.add(target)
        properties = {name: message.properties[name] for name in PROPERTIES if message.properties.get(name) is not None}
        expiration = message.properties.get("expiration")
        if expiration is not None:
            properties["expiration"] = int(expiration) / 1000
        headers = {name: value for name, value in message.headers.items() if name != "compression"}
        producer = self._connection.Producer(self._connection.default_channel)
        producer.publish(
            message.body, exchange="", routing_key=target, headers=headers, content_type=message.content_type,
            content_encoding=message.content_encoding, **properties,
        )  # fmt: skip

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.collect(socket_timeout=1.0)
            except Exception as error:
                logger.debug("Closing the forwarder's connection: %r", error)


def declare(connection: Any, queue: str) -> None:
    """Make sure that *queue* exists, of whatever type its owner has declared it."""
    from amqp.exceptions import NotFound  # noqa: PLC0415 - only AMQP comes here

    channel = connection.channel()
    try:
        channel.queue_declare(queue=queue, passive=True)
        channel.close()
    except NotFound:
        channel = connection.channel()
        channel.queue_declare(queue=queue, durable=True, auto_delete=False)
        channel.close()
