"""The loop of one connection: reads messages, ends at a lost connection, and keeps AMQP's heartbeats cheaply.

Celery's own loop drains the event dispatcher's connection for up to 0.1 s in every cycle, which is 17 tasks a second on
AMQP; it notices a new prefetch count or a shutdown only after two idle seconds; and where an acknowledgement is the
first to find the connection broken, kombu connects anew inside ``drain_events`` and says nothing, to a channel without
a consumer: the worker looks well and never gets another message.
"""

from __future__ import annotations

import errno
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state

from greenworker import hub
from greenworker.monitoring.task_risks import ACK_TIMED_OUT

if TYPE_CHECKING:
    from greenworker.pool.consumer import Consumer

CYCLE_SECONDS = 0.25
"""The loop looks up at least so often: for a new prefetch count, a shutdown, a heartbeat that failed."""

DISPATCHER_SECONDS = 1.0
"""How often the event dispatcher's connection is read, so that its heartbeats do not pile up."""


def loop(  # noqa: PLR0912, PLR0917 - Celery's signature, and what may end it
    c: Consumer, connection: Any, consumer: Any, blueprint: Any, _hub: Any, qos: Any, _heartbeat: Any, _clock: Any,
    hbrate: float = 2.0, **_: Any,
) -> None:  # fmt: skip
    """One life of a connection; an exception ends it, and Celery's consumer reconnects."""
    c.buffer_task_events()
    dispatcher = c.event_dispatcher.connection if c.event_dispatcher else None
    heartbeats = [Heartbeat(each, hbrate) for each in (connection, dispatcher) if each is not None]
    consumer.on_message = c.create_task_handler()
    if not c.runtime.drain.draining:
        c.begin_consuming()
        c.runtime.consuming = True
    c.on_ready()
    dispatcher_read = monotonic()
    try:
        while blueprint.state == bootsteps.RUN and c.connection:
            c.perform_pending_operations()
            if not c.still_draining():
                state.maybe_shutdown()
            c.apply_prefetch()
            raise_if_broken(connection, heartbeats)
            try:
                connection.drain_events(timeout=CYCLE_SECONDS)
            except TimeoutError:
                pass
            except OSError:
                if blueprint.state == bootsteps.RUN:
                    raise
            except connection.channel_errors as error:
                if ACK_TIMED_OUT not in str(error):
                    raise
                # RabbitMQ's consumer_timeout. Celery would end the worker, which waits for the very task that is late.
                raise ConnectionResetError(f"RabbitMQ has closed the channel: {error}") from error
            if dispatcher is not None and monotonic() - dispatcher_read > DISPATCHER_SECONDS:
                dispatcher_read = monotonic()
                if dispatcher.supports_heartbeats:
                    read_unless_busy(c.event_dispatcher)
    finally:
        c.runtime.consuming = False
        if c.runtime.drain.draining:
            c.send_events()
        for heartbeat in heartbeats:
            heartbeat.stop()


class Heartbeat:
    """Of one AMQP connection, for as long as its loop runs. Celery's own goes on after the connection is lost, one more
    timer with all that it refers to for each reconnect.
    """

    def __init__(self, connection: Any, rate: float) -> None:
        """*rate*: how often to look, in times per negotiated interval."""
        self.error: BaseException | None = None
        self._connection = connection
        self._rate = rate
        interval = connection.get_heartbeat_interval()
        self._seconds = interval / rate if interval and connection.supports_heartbeats else 0.0
        self._next: Any = None
        self._wait()

    def _wait(self) -> None:
        if self._seconds:
            self._next = hub.call_after(self._seconds, self._beat)

    def _beat(self) -> None:
        try:
            if self._connection.connected:
                self._connection.heartbeat_check(self._rate)
        except Exception as error:
            self.error = error
        else:
            self._wait()

    def stop(self) -> None:
        """The connection is lost or closed."""
        self._seconds = 0.0
        if self._next is not None:
            self._next.cancel()


def raise_if_broken(connection: Any, heartbeats: list[Heartbeat]) -> None:
    """To be asked right before reading, which would connect anew by itself."""
    for heartbeat in heartbeats:
        if heartbeat.error is not None:
            raise heartbeat.error
    if not connection.connected:
        raise ConnectionResetError("an acknowledgement found the connection to the broker broken")


def read_what_is_there(connection: Any) -> None:
    """Read frames that have arrived, wait for none."""
    try:
        while True:
            connection.drain_events(timeout=0.001)
    except OSError as error:
        if not isinstance(error, TimeoutError) and error.errno not in (None, errno.EAGAIN):
            raise


def read_unless_busy(dispatcher: Any) -> None:
    """Not while another green thread sends task events: it waits for the broker's confirmation, and reads all that
    comes. Eventlet forbids two that read one socket.
    """
    if dispatcher.mutex.acquire(blocking=False):
        try:
            read_what_is_there(dispatcher.connection)
        finally:
            dispatcher.mutex.release()
