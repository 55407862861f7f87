"""What Celery's remote control may do: everybody who can write to the broker can use it.

Reading stays, and revoking, which applications do in their normal course (``AsyncResult.revoke``). What changes a
worker is refused with a reason, unless the resource says ``Full``. The size of the green pool is the operator's in
either case. Commands that the application registers itself are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import Any

from celery.utils.log import get_logger
from celery.worker import pidbox
from celery.worker.control import Panel

from greenworker.redaction import redacted

logger = get_logger(__name__)

REVOKES = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})
"""``control`` commands that ``ReadOnly`` allows beside Celery's ``inspect`` commands."""

WRITES_FILES = frozenset({"objgraph"})
"""An ``inspect`` command that does more than read."""

OPERATORS = frozenset({"pool_grow", "pool_shrink", "pool_restart", "autoscale"})
"""What would be undone within a second, or is not possible with green threads."""

RESTRICTED = (
    "refused: spec.worker.remoteControl of this GreenWorkerPool is ReadOnly, because everybody who can write to the "
    "broker could do this; set it to Full to allow it"
)
SIZE = (
    "refused: the operator sets the number of green threads and restarts workers; change greenThreads.min, max and "
    "start of the GreenWorkerPool instead"
)
AGAIN_SECONDS = (1.0, 30.0)
"""A mailbox that is lost is opened again after the first, doubling up to the second."""

READ_SECONDS = 1.0
"""So often the mailbox looks whether it is to end."""

EVENTS = "; for task events add -E to spec.worker.extraArgs"


def restrict(allowed: str, role: str) -> None:
    """After the app and its commands are loaded, before the consumer listens. *allowed*: ReadOnly or Full; Disabled
    does not get here.
    """
    for name, command in list(Panel.data.items()):
        if not str(command.__module__).startswith("celery."):
            continue
        why = reason(name, Panel.meta[command.__name__].type, allowed, role)
        if why:
            Panel.data[name] = _refuse(name, why)


def reason(name: str, kind: str, allowed: str, role: str) -> str:
    """Why Celery's command *name* of this *kind* (inspect or control) is refused; empty if it is not."""
    if name in OPERATORS and role == "eventlet":
        return SIZE
    if allowed == "Full" or name in REVOKES or (kind == "inspect" and name not in WRITES_FILES):
        return ""
    return RESTRICTED + (EVENTS if name in {"enable_events", "disable_events"} else "")


def _refuse(name: str, why: str) -> Callable[..., dict[str, str]]:
    def refused(state: Any, **_: Any) -> dict[str, str]:
        return {"error": why}

    refused.__name__ = name
    return refused


def keep_listening() -> None:
    """Green workers get a `Mailbox`. Before the consumer is made."""
    pidbox.gPidbox = Mailbox


class Mailbox(pidbox.gPidbox):  # type: ignore[misc]
    """Celery's, whose green thread ends at the first error, for ever, and logs nothing: a Redis that is
    full when the worker starts, a connection of the mailbox alone that is lost. This one opens it again.
    """

    def start(self, c: Any) -> None:
        """For each connection of the consumer. The events are made here: who stops it before it runs waits for it all
        the same.
        """
        self._node_shutdown, self._node_stopped = Event(), Event()
        c.pool.spawn_n(self._listen, c, self._node_shutdown, self._node_stopped)

    def _listen(self, c: Any, ended: Event, stopped: Event) -> None:
        connection, pause = c.app.connection_for_read(), AGAIN_SECONDS[0]
        try:
            while not ended.is_set() and c.connection:
                began = monotonic()
                try:
                    with connection:
                        self._read(c, connection, ended)
                except Exception as error:
                    if monotonic() - began > AGAIN_SECONDS[1]:
                        pause = AGAIN_SECONDS[0]
                    logger.warning("Remote control receives nothing; again in %.0f s: %s", pause, redacted(repr(error)))
                    connection.maybe_switch_next()
                    ended.wait(pause)
                    pause = min(2 * pause, AGAIN_SECONDS[1])
        finally:
            stopped.set()

    def _read(self, c: Any, connection: Any, ended: Event) -> None:
        """Until it is to end. Raises whatever goes wrong."""
        connection.ensure_connection(max_retries=1, interval_start=0)
        self._do_reset(c, connection)
        resets = self._resets
        while not ended.is_set() and c.connection:
            if resets != self._resets:
                resets = self._resets
                self._do_reset(c, connection)
            with suppress(TimeoutError):
                connection.drain_events(timeout=READ_SECONDS)
