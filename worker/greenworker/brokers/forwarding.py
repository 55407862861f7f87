"""Which tasks belong to the prefork companion, and how a message gets there.

Three sources, any of which suffices: the names and globs of the resource, the author's mark ``@app.task(pool="prefork")``,
and the operator's evidence in the routes file. A message is sent on as it is: body, headers, properties.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from json import dumps, loads
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub
from greenworker.brokers.declarations import refused_declaration
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.task_risks import PREFORK
from greenworker.protocol import head_of

logger = get_logger(__name__)

SUFFIX = ".prefork"
"""Of the companion's queue."""

RELOAD_SECONDS = 2.0
RETRY_SECONDS = 1.0

FORWARD_AT_ONCE = 500
"""Messages that travel together. More of them wait for the next turn."""

CONFIRM_SECONDS = 15.0
"""Within so long a broker has written down what was forwarded; what it has not confirmed is sent again."""

ALONE = (
    "{task} belongs to prefork (its author's mark), and the pool has no companion that would take it from {queue}.prefork: it runs on the hub; add "
    "prefork to the resource, or remove the mark"
)


class Routes:
    """Decides by name. `matches` is asked for every message, so it remembers."""

    def __init__(self, patterns: Iterable[str], routes_file: Path, *, has_companion: bool = True) -> None:
        self.patterns = tuple(patterns)
        self.has_companion = has_companion
        self.routes_file = routes_file
        self.evidence: tuple[str, ...] = ()
        self.marked: frozenset[str] = frozenset()
        self._known: dict[str, bool] = {}

    @classmethod
    def of(cls, environment: Environment) -> Routes:
        """From the environment; `reload` reads the file."""
        return cls(environment.prefork_tasks, environment.routes_file, has_companion=environment.has_companion)

    def any(self) -> bool:
        """False if no task at all belongs to the companion."""
        return bool(self.patterns or self.evidence or self.marked)

    def matches(self, task: str) -> bool:
        """True if *task* belongs to the companion."""
        if not self.any():
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
    """Sends messages on. On Redis one script moves the message; on AMQP: declare, publish, wait for the confirmation, then ack."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.runtime = consumer.runtime
        self.run_here: Callable[[Any], object] = lambda message: None
        self._waiting: deque[tuple[Any, str, str]] = deque()
        self._running = False
        self._republisher: Any = None
        self._ready: dict[str, bool] = {}
        """Companion queues: False for those that this app cannot have."""

    def take(self, message: Any) -> bool:
        """True if *message* is the companion's; it is on its way then, or already there."""
        if not self.runtime.routes.any():
            return False
        task = head_of(message).task
        if not task or not self.runtime.routes.matches(task):
            return False
        queue = self.queue_of(message)
        target = queue + SUFFIX
        if not self.runtime.routes.has_companion:
            self.runtime.task_risks.found(PREFORK, task, ALONE.format(task=task, queue=queue))
            return False
        if queue.endswith(SUFFIX) or not self._is_possible(target, task):
            return False
        store = self.runtime.store
        if store is not None and message.delivery_tag in store.held:
            self._move(message, task, target)
        else:
            self._waiting.append((message, task, target))
            if not self._running:
                self._running = True
                hub.spawn(self._publish_waiting)
        return True

    def waiting(self) -> list[Any]:
        """Messages that wait to be forwarded."""
        return [message for message, _, _ in self._waiting]

    def check(self, queues: Iterable[str]) -> None:
        """Before the first message is taken, if tasks belong to the companion whatever happens: raises `MisconfiguredError` for the
        first of the *queues* whose companion cannot consume what would be forwarded to it. A broker that does not answer is no reason.
        """
        routes = self.runtime.routes
        tasks = ", ".join(sorted([*routes.patterns, *routes.marked])[:3])
        if not tasks or not routes.has_companion:
            return
        for queue in queues:
            if queue.endswith(SUFFIX):
                continue
            try:
                self._prepare(queue + SUFFIX)
            except MisconfiguredError as error:
                reason = f"{error.reason}; so the prefork companion cannot take {tasks} and other tasks of its"
                raise MisconfiguredError(error.field, error.value, reason, error.fix) from error
            except Exception as error:
                self._close()
                logger.warning("Could not declare %s%s yet: %r", queue, SUFFIX, error)

    def _is_possible(self, target: str, task: str) -> bool:
        """Whether *target* can be had as far as that is known without asking the broker."""
        possible = self._ready.get(target)
        if possible is None:
            try:
                declared_queue(self.consumer.app, target)
            except MisconfiguredError as error:
                self._refuse(target, task, error)
                return False
        return possible is not False

    def _prepare(self, target: str) -> None:
        """Declare *target* as the application would. Raises `MisconfiguredError` if it cannot be had, or the connection's errors."""
        queue = declared_queue(self.consumer.app, target)
        if self.runtime.store is None and not self._ready.get(target):
            try:
                self._published_by().declare(queue)
            except Exception as error:
                refused = refused_declaration(error, target)
                if refused is None:
                    raise
                raise refused from error
        self._ready[target] = True

    def _refuse(self, target: str, task: str, error: MisconfiguredError) -> None:
        """What the operator's evidence sends there runs here, as it did before, and somebody has to know."""
        self._ready[target] = False
        sentence = f"{task} and others are not forwarded to {target} and run on the hub: {error}"
        self.runtime.task_risks.found(PREFORK, task, sentence)

    def _published_by(self) -> Any:
        if self._republisher is None:
            from greenworker.brokers.amqp.republish import Republisher  # noqa: PLC0415 - AMQP only

            self._republisher = Republisher(self.consumer.app)
        return self._republisher

    def queue_of(self, message: Any) -> str:
        """The name of the queue that *message* came from; empty if nobody can say."""
        consumed = self.consumer.queue_of(message)
        if consumed:
            return str(consumed)
        store, channel = self.runtime.store, message.channel
        held = store.held.get(message.delivery_tag) if store is not None else None
        if held is not None:
            name = held.key.removeprefix(channel.global_keyprefix)
            return str(name.rsplit(channel.sep, 1)[0])
        return str((message.delivery_info or {}).get("routing_key") or "")

    def _move(self, message: Any, task: str, target: str) -> None:
        store, channel = self.runtime.store, message.channel
        payload = loads(store.held[message.delivery_tag].payload)
        # Whoever restores it later must put it back there, not here.
        payload["properties"]["delivery_info"] = {"exchange": "", "routing_key": target}
        priority = channel._get_message_priority(payload, reverse=False)
        key = channel.global_keyprefix + channel._q_for_pri(target, priority)
        try:
            store.move(message.delivery_tag, key, dumps(payload))
        except Exception:
            store.return_later([message.delivery_tag])
            raise
        channel.qos._quick_ack(message.delivery_tag)
        message._state = "ACK"
        self.runtime.accounting.forwarded.add(1, task)

    def _publish_waiting(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), FORWARD_AT_ONCE))]
                left = self._publish(batch)
                if not left:
                    continue
                self._waiting.extendleft(reversed(left))
                self._close()
                if self.runtime.drain.draining:
                    self._return_all()
                    return
                hub.sleep(RETRY_SECONDS)
        finally:
            self._running = False

    def _publish(self, batch: list[tuple[Any, str, str]]) -> list[tuple[Any, str, str]]:
        """Forward the *batch*; what has to be tried again. What cannot be forwarded runs here. What came over a connection that is lost
        is nobody's here any more: the broker delivers it again.
        """
        from greenworker.brokers.amqp.republish import Copy  # noqa: PLC0415 - AMQP only

        good, left = [], []
        batch = [entry for entry in batch if not is_lost(entry[0])]
        for entry in batch:
            message, task, target = entry
            try:
                if self._ready.get(target) is None:
                    self._prepare(target)
            except MisconfiguredError as error:
                self._refuse(target, task, error)
            except Exception as error:
                logger.warning("Could not forward %s to %s yet: %r", task, target, error)
                left.append(entry)
                continue
            if self._ready[target]:
                good.append(entry)
            else:
                self.run_here(message)
        if not good:
            return left
        confirmed = self._published_by().publish(
            [Copy(message, target) for message, _, target in good], CONFIRM_SECONDS
        )
        for position, entry in enumerate(good):
            message, task, target = entry
            if position not in confirmed:
                self._ready.pop(target, None)  # it may be gone
                left.append(entry)
                continue
            message.ack_log_error(logger, self.consumer.connection_errors)
            self.runtime.accounting.forwarded.add(1, task)
        return left

    def _return_all(self) -> None:
        messages = [message for message in self.waiting() if not is_lost(message)]
        self._waiting.clear()
        self.consumer.give_back(messages)

    def _close(self) -> None:
        republisher, self._republisher = self._republisher, None
        self._ready = {target: ready for target, ready in self._ready.items() if not ready}
        if republisher is not None:
            republisher.close()


def is_lost(message: Any) -> bool:
    """Whether the AMQP connection that *message* came over is closed: it cannot be settled any more."""
    return message.channel.connection is None


def declared_queue(app: Any, name: str) -> Any:
    """The queue *name* as a worker of *app* that consumes it declares it. Raises `MisconfiguredError` if none can."""
    queues = app.amqp.queues
    known = name in queues or name in queues.aliases
    try:
        queue = queues[name]
    except KeyError:
        raise missing_queue(name) from None
    if not known:
        queues.pop(
            name, None
        )  # Celery binds every queue that it finds there, and this worker consumes it no more than before
    return queue


def missing_queue(name: str) -> MisconfiguredError:
    """An app that forbids queues which it does not list."""
    return MisconfiguredError(
        "app", "task_create_missing_queues=False", f"the app's task_queues has no queue {name}, and the app forbids others",
        f"add Queue({name!r}) to the app's task_queues, or let the app create missing queues",
    )  # fmt: skip
