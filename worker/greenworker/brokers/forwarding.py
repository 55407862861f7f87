"""Which tasks belong to the prefork companion, and how a message gets there.

Three sources, any of which suffices: the names and globs of the resource, the author's mark
``@app.task(pool="prefork")``, and the operator's auto-routing in the routes file. A message is sent on as it is: body,
headers, properties.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from greenworker import hub
from greenworker.brokers.settlement import Settlement
from greenworker.compat import has_setting, queue_type
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.task_risks import PREFORK, TaskRisks
from greenworker.protocol import head_of

logger = get_logger(__name__)

SUFFIX = ".prefork"
"""Of the companion's queue."""

RELOAD_SECONDS = 2.0

ALONE = (
    "{task} belongs to prefork (its author's mark), and the pool has no companion that would take it from "
    "{queue}.prefork: it runs on the hub; add "
    "prefork to the resource, or remove the mark"
)

NOT_REPLICATED = (
    "{queue} is a quorum queue, and {queue}.prefork is none: while the node that has it is away, tasks for the "
    "companion wait. {remedy}; a queue that exists has to be deleted for that, when it is empty"
)

NAME_ITS_QUEUE = "Add {queue}.prefork to task_queues of the app, with x-queue-type: quorum"
SET_THE_TYPE = "Set task_create_missing_queue_type='quorum' in the app, or add {queue}.prefork to its task_queues"
"""From Celery 5.6 on."""


class Routes:
    """Decides by name. `matches` is asked for every message, so it remembers."""

    def __init__(self, patterns: Iterable[str], routes_file: Path, *, has_companion: bool = True) -> None:
        self.patterns = tuple(patterns)
        self.has_companion = has_companion
        self.routes_file = routes_file
        self.auto_routed: tuple[str, ...] = ()
        self.marked: frozenset[str] = frozenset()
        self._known: dict[str, bool] = {}

    @classmethod
    def of(cls, environment: Environment) -> Routes:
        """From the environment; `reload` reads the file."""
        return cls(environment.prefork_tasks, environment.routes_file, has_companion=environment.has_companion)

    def any(self) -> bool:
        """False if no task at all belongs to the companion."""
        return bool(self.patterns or self.auto_routed or self.marked)

    def matches(self, task: str) -> bool:
        """True if *task* belongs to the companion."""
        if not self.any():
            return False
        known = self._known.get(task)
        if known is None:
            known = task in self.marked or any(fnmatchcase(task, name) for name in (*self.patterns, *self.auto_routed))
            if len(self._known) < 10_000:
                self._known[task] = known
        return known

    def mark(self, app: Any) -> None:
        """Learn the author's marks from the app's tasks."""
        self.marked = frozenset(name for name, task in app.tasks.items() if getattr(task, "pool", None) == "prefork")
        self._known.clear()

    def reload(self) -> None:
        """Read what the operator has auto-routed. A file that is missing or broken changes nothing that was read."""
        try:
            names = json.loads(self.routes_file.read_text() or "[]")
        except FileNotFoundError:
            names = []
        except (OSError, ValueError) as error:
            logger.warning("%s is no JSON list of task names: %r", self.routes_file, error)
            return
        if not isinstance(names, list):
            return
        auto_routed = tuple(str(name) for name in names)
        if auto_routed != self.auto_routed:
            self.auto_routed = auto_routed
            self._known.clear()

    def watch(self) -> None:
        """For ever, in a green thread."""
        while True:
            self.reload()
            hub.sleep(RELOAD_SECONDS)


class Forwarder:
    """Decides what is sent on, and where to; how is the settlement's business."""

    def __init__(self, app: Any, routes: Routes, task_risks: TaskRisks, settlement: Settlement) -> None:
        self.run_here: Callable[[Any], object] = lambda message: None
        """What becomes of a message whose queue turns out to be impossible. Set by the consumer."""
        self._app = app
        self._routes = routes
        self._task_risks = task_risks
        self._settlement = settlement
        self._queues: dict[str, Any] = {}
        """Companion queues by name; None for those that cannot be had."""

    def take(self, message: Any) -> bool:
        """True if *message* is the companion's; it is on its way then, or already there."""
        if not self._routes.any():
            return False
        task = head_of(message).task
        if not task or not self._routes.matches(task):
            return False
        queue = self._settlement.queue_of(message)
        if not self._routes.has_companion:
            self._task_risks.found(PREFORK, task, ALONE.format(task=task, queue=queue))
            return False
        if queue.endswith(SUFFIX):
            return False
        target = self._companion_queue(queue + SUFFIX, task)
        if target is None:
            return False

        def otherwise(error: MisconfiguredError) -> None:
            self._refuse(target.name, task, error)
            self.run_here(message)

        self._settlement.forward(message, task, target, otherwise)
        return True

    def check(self, queues: Iterable[str]) -> None:
        """Before the first message is taken, if tasks belong to the companion whatever happens: raises
        `MisconfiguredError` for the first of the *queues* whose companion cannot consume what would be forwarded to it.
        A broker that does not answer is no reason.
        """
        routes = self._routes
        tasks = ", ".join(sorted([*routes.patterns, *routes.marked])[:3])
        if not tasks or not routes.has_companion:
            return
        for queue in queues:
            if queue.endswith(SUFFIX):
                continue
            try:
                companions = declared_queue(self._app, queue + SUFFIX)
                is_quorum = queue_type(self._app.amqp.queues.get(queue)) == "quorum"
                if is_quorum and queue_type(companions) != "quorum":
                    remedy = SET_THE_TYPE if has_setting("task", "create_missing_queue_type") else NAME_ITS_QUEUE
                    logger.warning(NOT_REPLICATED.format(queue=queue, remedy=remedy.format(queue=queue)))
                self._settlement.declare(companions)
            except MisconfiguredError as error:
                reason = f"{error.reason}; so the prefork companion cannot take {tasks} and other tasks of its"
                raise MisconfiguredError(error.field, error.value, reason, error.fix) from error
            except Exception as error:
                logger.warning("Could not declare %s%s yet: %r", queue, SUFFIX, error)

    def _companion_queue(self, name: str, task: str) -> Any:
        """kombu's queue *name*, as far as that is known without asking the broker; None if it cannot be had."""
        if name not in self._queues:
            try:
                self._queues[name] = declared_queue(self._app, name)
            except MisconfiguredError as error:
                self._refuse(name, task, error)
        return self._queues[name]

    def _refuse(self, name: str, task: str, error: MisconfiguredError) -> None:
        """What the operator has routed there runs here, as it did before, and somebody has to know."""
        self._queues[name] = None
        sentence = f"{task} and others are not forwarded to {name} and run on the hub: {error}"
        self._task_risks.found(PREFORK, task, sentence)


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
        "app", "task_create_missing_queues=False", f"the app's task_queues has no queue {name}, and the app "
                                                   "forbids others",
        f"add Queue({name!r}) to the app's task_queues, or let the app create missing queues",
    )  # fmt: skip
