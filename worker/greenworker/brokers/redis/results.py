"""Results on Redis: stored and read through an outage, and subscribed to by one green thread at a time.

Celery asks Redis once whether a result is there already before it stores one, and counts a part of a chord once. Where
Redis is away in that moment, the task is acknowledged all the same: nobody ever gets its result, and a chord's body is
never sent. So a task waits until Redis is back. Only in a task: what Celery stores elsewhere (a revoked task, a time
limit) it stores in the loop that keeps the connection to the broker.

Celery's reader ends after its retries, which are 20 s of an outage. Whoever waits in a task then waits until its
timeout, and from 5.6 on whoever waits later gets an error. So ours goes on trying.

A retry is published before it is recorded, and Celery asks whether there is a result before it records it, in two
steps. Where a worker waits between them, the retry has ended elsewhere meanwhile, and its result would be overwritten.
So what is no end is stored in one step.

Who counts the last part of a chord sends its body, and its worker may end before the broker has it. That part runs
again, and has to send the body. So who is killed leaves the chord as it is, and who counts again takes over a body that
nobody sends.

Who waits subscribes, asks once, and is told once. Redis takes the commands of several connections in an order of its
own, and a connection that is silent tells nothing. So who waits asks now and then.

Up to 5.6 the first tasks that wait for others at the same time all connect. The last connection is read, and what was
subscribed to over the others never arrives: ``.get()`` waits until its timeout. The same where a lost connection is
replaced. From 5.7 on Celery takes care of it.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from threading import RLock
from typing import Any

from celery import current_task, states
from celery.backends import redis
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError  # noqa: A004 - Redis' own

logger = get_logger(__name__)

AGAIN_SECONDS = 1.0

OUTAGE_SECONDS = 120.0
"""So long a task waits with its result for a Redis that is away. The fault runs take a broker away for 60 s
(docs/reliability.md).
"""

AWAY = (ConnectionError, TimeoutError, OSError)
"""What storing raises then. kombu's own list has KeyError, too, and a wrong password, which is an answer."""

SENDING_SECONDS = 5.0
"""So long a part that runs again lets another one send the chord's body, which takes milliseconds where the broker
answers.
"""

LOOK_SECONDS = 2.0
"""So often, at most, a process asks for all results that its tasks wait for, in one command."""

GIVE_UP = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
"""In one step: of several that give up one claim, the others would take the first one's new claim for it."""


class ReconnectingConsumer(redis.ResultConsumer):
    """Connects anew for as long as it takes; what was stored meanwhile is read then. What no message told is read, too:
    whoever waits looks for it.
    """

    _lost = False
    _next_look = 0.0

    def _wait_for_pending(
        self, result: Any, timeout: float | None = None, on_interval: Callable[[], Any] | None = None, **kwargs: Any
    ) -> Any:
        def look_and_go_on() -> None:
            self._look()
            if on_interval is not None:
                on_interval()

        return super()._wait_for_pending(result, timeout=timeout, on_interval=look_and_go_on, **kwargs)

    def _look(self) -> None:
        keys = tuple(self.subscribed_to)
        if not keys or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        with suppress(RedisError, OSError):  # who may not look, and whose Redis is away, still waits for the message
            for key, found in zip(keys, self._asking.mget(keys), strict=True):
                with suppress(Exception):  # what cannot be decoded is an error of who waits for it alone
                    meta = self.backend.decode_result(found) if found and key in self.subscribed_to else None
                    if meta and meta["status"] in states.READY_STATES:
                        self.on_state_change(meta, None)

    @cached_property
    def _asking(self) -> Any:
        """A client of its own, which gives a silent connection up soon: who looks has a timeout to keep."""
        options = self.backend.connparams
        soon = {"socket_timeout": LOOK_SECONDS, "socket_connect_timeout": LOOK_SECONDS, "retry_on_timeout": False}
        return self.backend._create_client(**{name: soon.get(name, value) for name, value in options.items()})

    def on_state_change(self, meta: Any, message: Any) -> None:
        """A *message* that was on its way when somebody had looked tells nothing new, and Celery would keep it."""
        if message is None or self._get_key_for_task(meta["task_id"]) in self.subscribed_to:
            super().on_state_change(meta, message)

    def drain_events(self, timeout: float | None = None) -> Any:
        """Waits *timeout* seconds at most, or as long as Celery's retries take."""
        try:
            if self._lost or (self._pubsub is None and self.subscribed_to):
                self._reconnect_pubsub()
                self._lost = False
            return super().drain_events(timeout=timeout)
        except (RuntimeError, *self._connection_errors) as error:  # 5.6 and newer say RuntimeError after the retries
            if not self._lost:
                logger.warning("Results cannot be read; it is tried until they can: %r", error)
            self._lost = True
            time.sleep(AGAIN_SECONDS)


class SerialConsumer(ReconnectingConsumer):
    """Whoever subscribes, withdraws or connects does so alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lock = RLock()
        self._busy = False
        self._withdrawn: set[str] = set()
        super().__init__(*args, **kwargs)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._busy:  # by this green thread
                yield
                return
            self._busy = True
            try:
                yield
                while self._withdrawn:
                    super().cancel_for(self._withdrawn.pop())
            finally:
                self._busy = False

    def consume_from(self, task_id: str) -> Any:
        """Connects at the first time."""
        with self._alone():
            self._withdrawn.discard(task_id)
            return super().consume_from(task_id)

    def cancel_for(self, task_id: str) -> None:
        """Never waits, for it is also called where garbage is collected: whoever is busy does it afterwards. Where the
        connection is lost there is nothing to withdraw; a new one would take the pool's lock, which is not reentrant in
        redis-py 4 and 5, and whose holder may be the one that collects.
        """
        if not self._busy and self._pubsub is not None and self._pubsub.connection is None:
            self.subscribed_to.discard(self._get_key_for_task(task_id))
            return
        self._withdrawn.add(task_id)
        if not self._busy:
            with self._alone():
                pass

    def _reconnect_pubsub(self) -> None:
        with self._alone():
            super()._reconnect_pubsub()

    def drain_events(self, timeout: float | None = None) -> Any:
        """Waits *timeout* seconds at most. Nothing is read while a connection is made."""
        with self._lock:
            pass
        return super().drain_events(timeout=timeout)


def through_outage(what: Callable[[], Any], name: str) -> Any:
    """What *what* returns. A task tries it until Redis is there. Its own code has ended, so that a soft limit, which
    only asks that code to end, costs it nothing while it waits.
    """
    until = 0.0
    while True:
        try:
            return what()
        except SoftTimeLimitExceeded:
            if not until:
                raise
        except AWAY as error:
            if is_answer(error) or not current_task or (until and time.monotonic() >= until):
                raise
            if not until:
                until = time.monotonic() + OUTAGE_SECONDS
                logger.warning("%s waits for Redis, for %g s at most: %s", name, OUTAGE_SECONDS, error)
            pause()


def pause() -> None:
    """Before something is tried again; a soft limit only shortens it."""
    with suppress(SoftTimeLimitExceeded):
        time.sleep(AGAIN_SECONDS)


def is_answer(error: Exception) -> bool:
    """A wrong password, or a certificate that is not trusted: time changes neither."""
    return isinstance(error, AuthenticationError) or isinstance(error.__context__ or error, ssl.SSLError)


def store_through_outages() -> None:
    """For every result backend on Redis, from now on."""
    backend: Any = redis.RedisBackend
    store, replace, count = backend._store_result, backend._set_with_state, backend.on_chord_part_return
    if hasattr(store, "outlasts_outages"):
        return

    def _store_result(self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state not in states.READY_STATES:  # a retry goes on without its record
            return store(self, task_id, result, state, *args, **kwargs)
        return through_outage(lambda: store(self, task_id, result, state, *args, **kwargs), f"The result of {task_id}")

    def on_chord_part_return(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        def take_over_and_count() -> Any:
            if current_task and request.group:
                take_over(self, request.group)
            return count(CountingBackend(self), request, *args, **kwargs)

        if not self.app.conf.result_backend_transport_options.get("result_chord_ordered", True):
            return take_over_and_count()  # up to Celery 5.6 it would be counted twice
        return through_outage(take_over_and_count, f"A part of the chord {request.group}")

    def _set_with_state(self: Any, key: Any, value: Any, state: str) -> Any:
        if state in states.READY_STATES:
            return replace(self, key, value, state)
        return self.ensure(store_unless_done, (self, key, value))

    setattr(_store_result, "outlasts_outages", True)  # noqa: B010 - mypy knows no attributes of functions
    backend._store_result = _store_result
    backend._set_with_state = _set_with_state
    backend.on_chord_part_return = on_chord_part_return


def store_unless_done(backend: Any, key: Any, value: Any) -> None:
    """As Celery stores what is no end of a task, unless that task has succeeded."""

    def store(pipe: Any) -> None:
        found = pipe.get(key)
        pipe.multi()
        if found is None or backend.decode(found)["status"] != states.SUCCESS:
            pipe.set(key, value, ex=backend.expires or None)
            pipe.publish(key, value)

    backend.client.transaction(store, key)


def take_over(backend: Any, chord: str) -> None:
    """From 5.7 on the part that completes a *chord* claims its body, for up to a quarter of an hour, when all have been
    counted. So who finds a claim before it counts runs again, or its answer was lost with the connection. Who made the
    claim may have ended, and nobody would send the body. Unless it is sent soon, the claim is given up, and counting
    makes a new one. Who made it may also live and send the body later: then it runs twice.
    """
    key, until = backend.get_key_for_group(chord, ".c"), time.monotonic() + SENDING_SECONDS
    claim = backend.client.get(key)
    while claim not in (None, b"done", "done") and backend.client.get(key) == claim:
        if time.monotonic() >= until:
            logger.warning("Nobody sends the body of the chord %s; this part of it, which runs again, does", chord)
            backend.client.eval(GIVE_UP, 1, key, claim)
            return
        pause()


class CountingBackend:
    """A result *backend* that counts one part of a chord, and whose client stops where its user is killed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.client = ClientUntilKilled(backend.client)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class ClientUntilKilled:
    """A *client* of Redis that does nothing more once its green thread is killed, or its process ends, which is an
    error that is no ``Exception``. If that happens while the body is sent, Celery marks the chord as done all the same,
    or up to 5.6 deletes what it has counted.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._before = sys.exc_info()[1]
        """What ended the task's own code: it is handled where its part is counted."""

    def __getattr__(self, name: str) -> Any:
        error = sys.exc_info()[1]
        if error is not self._before and not isinstance(error, (Exception, type(None))):
            raise error
        return getattr(self._client, name)


def own_consumers() -> None:
    """For every result backend on Redis that is made from now on."""
    knows_it = hasattr(redis.ResultConsumer, "_locked")
    redis.RedisBackend.ResultConsumer = ReconnectingConsumer if knows_it else SerialConsumer
