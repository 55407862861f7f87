"""Suspects run apart, so that the death of the process is due to them alone; a proven cause becomes a dead letter.

While suspects have their turn, nothing else starts in a worker: what ran before ends first, then a few suspects run
together, and whoever was among those when a process died runs all alone. After each turn everything else has as long,
for a turn takes as long as the tasks do: suspects of a minute stopped three workers for minutes, with 5,000 messages
behind them. See `suspicion` for what makes a suspect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from celery import signals
from celery.exceptions import WorkerLostError
from celery.utils.log import get_logger
from celery.worker import state

from greenworker.brokers.dead_letters import WORKER_LOST, sentence
from greenworker.brokers.settlement import Attempts, Settlement
from greenworker.brokers.suspicion import HEADER, NONE, TOGETHER, Suspicion, read
from greenworker.monitoring.accounting import Accounting

logger = get_logger(__name__)

AGAIN_SECONDS = 30.0
"""After the broker did not take a dead letter. Its message is held meanwhile: to run it would end this process, too."""


def take_header(message: Any) -> None:
    """Note what *message* says, for this delivery only: Celery copies headers into a task's retries."""
    suspicion = read(message.headers)
    if suspicion != NONE:
        message.suspicion = suspicion
        message.headers.pop(HEADER, None)


def suspicion_of(request: Any) -> Suspicion:
    """What is known about a request's message."""
    found: Suspicion = getattr(getattr(request, "message", None), "suspicion", NONE)
    return found


class Isolation:
    """The suspects of one worker, and their turns. An item is whatever the pool can start."""

    def __init__(
        self, start: Callable[[Any], None], request_of: Callable[[Any], Any], stopped: Callable[[], bool],
        settle: Callable[[Any], object], rest: Callable[[float], object] | None = None,
    ) -> None:  # fmt: skip
        """*stopped*: nothing starts any more. *settle*: makes the item's message a dead letter, or tries again
        later. *rest*: others have a turn of so many seconds, and then `resume` is to be called; None: they have none.
        """
        self.attempts: Attempts | None = None
        self.max_deaths = 0
        self.waiting: deque[Any] = deque()
        self.running: list[Any] = []
        self._advancing = False
        self._since = 0.0
        """When others ceased to start, by `monotonic`."""
        self._resting = False
        """Others have their turn."""
        self._taken = 0
        """How often all were taken back: what waited for the broker meanwhile must not start."""
        self._start = start
        self._request_of = request_of
        self._stopped = stopped
        self._settle = settle
        self._rest = rest

    def wants(self, request: Any) -> bool:
        """Whether this request has to run apart."""
        return self.attempts is not None and suspicion_of(request).suspect

    @property
    def active(self) -> bool:
        """Nothing else may start."""
        return bool((self.waiting and not self._resting) or self.running or self._advancing)

    def add(self, item: Any) -> None:
        """It waits for its turn."""
        if not self.waiting and not self.running:
            self._since = monotonic()
        self.waiting.append(item)

    def resume(self) -> None:
        """The others have had their turn."""
        self._resting = False
        self._since = monotonic()

    def take_waiting(self) -> list[Any]:
        """Those that have not started: they go back."""
        self._taken += 1
        self._resting = False
        items = list(self.waiting)
        self.waiting.clear()
        return items

    def ended(self, item: Any) -> bool:
        """An item has ended, and the process lives; True if it ran apart and is to be cleared."""
        if item not in self.running:
            return False
        self.running.remove(item)
        if self.waiting and not self.running and self._rest is not None:
            self._resting = True
            self._rest(monotonic() - self._since)
        return True

    def clear(self, item: Any) -> None:
        """The attempt did not end the process. May wait for the broker."""
        request = self._request_of(item)
        try:
            assert self.attempts is not None
            self.attempts.end(request.message)
        except Exception as error:
            logger.warning("Could not forget the attempts of %s: %r", request.name, error)

    def advance(self) -> None:
        """To be called while nothing runs: start those whose turn it is. May wait for the broker."""
        self._advancing = True
        try:
            taken = self._taken
            batch = self._next_batch()
            if self._stopped() or taken != self._taken:
                return  # all of them go back, or have gone back
            if len(batch) == 1 and self._is_proven(batch[0]):
                self._settle(batch[0])
                return
            for item in batch:
                self._begin(self._request_of(item), alone=len(batch) == 1)
            if self._stopped() or taken != self._taken:
                for item in batch:
                    self.clear(item)
                return
            self.running += batch
            for item in batch:
                self._start(item)
        finally:
            self._advancing = False

    def _next_batch(self) -> list[Any]:
        """Those that were never tried come first: they are mostly harmless, and must not wait for the next death."""
        batch: list[Any] = []
        graver: list[Any] = []
        taken = self._taken
        while self.waiting and len(batch) < TOGETHER:
            item = self.waiting.popleft()
            (graver if self._known(self._request_of(item)).attempts else batch).append(item)
        if not batch and graver:
            batch.append(graver.pop(0))
        if taken == self._taken:
            self.waiting.extendleft(reversed(graver))
        return batch

    def _is_proven(self, item: Any) -> bool:
        return suspicion_of(self._request_of(item)).deaths_alone >= self.max_deaths

    def _known(self, request: Any) -> Suspicion:
        """Asked once: what comes after it is written by this process."""
        message = request.message
        if not getattr(message, "suspicion_asked", False):
            try:
                assert self.attempts is not None
                message.suspicion = self.attempts.so_far(message, suspicion_of(request))
                message.suspicion_asked = True
            except Exception as error:
                logger.warning("Could not ask for the attempts of %s: %r", request.name, error)
        return suspicion_of(request)

    def _begin(self, request: Any, *, alone: bool) -> None:
        try:
            assert self.attempts is not None
            self.attempts.begin(request.message, suspicion_of(request).begun(alone=alone))
        except Exception as error:
            logger.warning("Could not write down that %s is tried: %r", request.name, error)


def refuse(settlement: Settlement, message: Any, error: Exception, in_pool: Iterable[Any]) -> bool:
    """Celery raised *error* as it took *message*. What runs or is settled stays as it is; the rest becomes a dead
    letter. Raises *error* where that is not possible. *in_pool*: the requests that the pool has. Returns whether Celery
    had reserved it.
    """
    tag = message.delivery_tag
    if message.acknowledged or any(each.message.delivery_tag == tag for each in (*state.active_requests, *in_pool)):
        logger.error("A message is settled or its task runs, and Celery raised: %r", error, exc_info=error)
        return False
    if not settlement.refuse(message, error):
        raise error
    reserved = [request for request in state.reserved_requests if request.message.delivery_tag == tag]
    for request in reserved:
        state.task_ready(request)
    return bool(reserved)


def dead_letter(attempts: Attempts | None, accounting: Accounting, request: Any) -> bool:
    """Make a request's message a dead letter, count it and store its failure; False if that is to be tried again."""
    deaths = suspicion_of(request).deaths_alone
    try:
        assert attempts is not None
        queue = attempts.dead_letter(request.message, request.name, request.id, deaths)
    except LookupError as error:
        logger.info("%s[%s] is another worker's by now: %s", request.name, request.id, error)
        state.task_ready(request)
        return True
    except Exception as error:
        logger.error("Could not move %s[%s] to the dead letters: %r", request.name, request.id, error)
        return False
    why = sentence(queue, deaths)
    logger.error("Task %s[%s] is a dead letter: %s", request.name, request.id, why)
    accounting.dead_letters.add(1, queue, request.name, WORKER_LOST)
    request.acknowledged = True
    state.task_ready(request)
    store_failure(request, WorkerLostError(why))
    return True


def store_failure(request: Any, error: Exception) -> None:
    """As Celery does for a task whose worker is lost and that will not run again."""
    try:
        request.task.backend.mark_as_failure(
            request.id, error, request=request._context, store_result=request.store_errors
        )
        signals.task_failure.send(
            sender=request.task, task_id=request.id, exception=error, args=request.args, kwargs=request.kwargs,
            traceback=None, einfo=None,
        )  # fmt: skip
    except Exception as problem:
        logger.error("Could not store the failure of %s[%s]: %r", request.name, request.id, problem)
