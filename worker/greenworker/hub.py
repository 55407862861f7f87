"""The seam: everything that only Eventlet knows. Another green library would replace this module and nothing else.

Only code of the hub's own thread may call it, except where a function says otherwise.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Any

NAME = "eventlet"


def patch() -> None:
    """Monkey-patch the standard library. Raises ImportError if the image has no Eventlet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet  # noqa: PLC0415 - must be the first import of the process that opens a socket
    eventlet.monkey_patch()


def is_patched() -> bool:
    """Whether `patch` was called, in this process or before its program."""
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("socket"))


def unpatched_part() -> str:
    """What in use is not green although it was patched; empty if everything looks right."""
    import socket  # noqa: PLC0415 - the patched one

    from eventlet.greenio import GreenSocket  # noqa: PLC0415
    from kombu.utils import compat  # noqa: PLC0415

    if isinstance(socket.socket, type) and not issubclass(socket.socket, GreenSocket):
        return f"socket.socket is {socket.socket.__module__}.{socket.socket.__qualname__}"
    detect_environment: Callable[[], str] = compat.detect_environment
    environment = detect_environment()
    return "" if environment == NAME else f"kombu takes this process for {environment!r}"


def spawn(function: Callable[..., object], *args: object) -> Any:
    """Run *function* in a new green thread. It must handle its own exceptions."""
    return _greenthread().spawn_n(function, *args)


@cache
def _greenthread() -> Any:
    """Imported once: an import statement takes a lock each time, and there is a spawn for every task."""
    from eventlet import greenthread  # noqa: PLC0415

    return greenthread


def call_after(seconds: float, function: Callable[..., object], *args: object) -> Any:
    """Run *function* in a green thread after *seconds*; the result has ``cancel()``. Safe inside a signal handler."""
    from eventlet import greenthread  # noqa: PLC0415

    return greenthread.spawn_after(seconds, function, *args)


def sleep(seconds: float) -> None:
    """Let others run for at least *seconds*."""
    from eventlet import greenthread  # noqa: PLC0415

    greenthread.sleep(seconds)


def current() -> Any:
    """The green thread that runs now."""
    from greenlet import getcurrent  # noqa: PLC0415

    return getcurrent()


def kill(thread: Any, error: BaseException | None = None) -> None:
    """Raise *error* (default: GreenletExit) in *thread*, where it waits. Returns after it has reacted."""
    from eventlet import greenthread  # noqa: PLC0415

    if error is None:
        greenthread.kill(thread)
    else:
        greenthread.kill(thread, type(error), error)


def killed_exception() -> type[BaseException]:
    """What `kill` raises."""
    from greenlet import GreenletExit  # noqa: PLC0415

    found: type[BaseException] = GreenletExit
    return found


def raise_after(seconds: float, error: BaseException) -> Any:
    """Raise *error* in the calling green thread after *seconds*, unless the result's ``cancel()`` is called first."""
    from eventlet import hubs  # noqa: PLC0415

    return hubs.get_hub().schedule_call_global(seconds, current().throw, error)


def within(seconds: float, what: Callable[[], Any]) -> Any:
    """What *what* returns. Raises TimeoutError in the calling green thread if it takes longer."""
    timer = raise_after(seconds, TimeoutError(f"no answer within {seconds:g} s"))
    try:
        return what()
    finally:
        timer.cancel()


def timer_class() -> Any:
    """The timer that Celery's worker uses for ETA, rate limits and heartbeats."""
    from celery.concurrency.eventlet import Timer  # noqa: PLC0415

    return Timer


class Wakeup:
    """A flag that one green thread waits for and others set. Setting it twice is setting it once."""

    def __init__(self) -> None:
        self._set = False
        self._waiter: Any = None

    def set(self) -> None:
        """Wake the waiter, or the next one to come."""
        self._set = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.ready():
            waiter.send(None)

    def clear(self) -> None:
        """Forget that it was set."""
        self._set = False

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most *seconds*, and clear it. True if it was set."""
        if not self._set:
            from eventlet import event, timeout  # noqa: PLC0415

            self._waiter = waiter = event.Event()
            with timeout.Timeout(seconds, False):
                waiter.wait()
            self._waiter = None
        was_set, self._set = self._set, False
        return was_set


class IdleClock:
    """How long the hub has waited for something to happen. May be read from any thread."""

    def __init__(self) -> None:
        self.idle_seconds = 0.0
        self._waiting_since: float | None = None
        self._installed_at: float | None = None

    def install(self) -> None:
        """Measure from now on: the hub's poll is the only place where it waits."""
        from eventlet import hubs  # noqa: PLC0415

        hub = hubs.get_hub()
        inner = getattr(hub, "do_poll", None)
        if inner is None:
            return

        def do_poll(seconds: float) -> Any:
            self._waiting_since = began = monotonic()
            try:
                return inner(seconds)
            finally:
                self._waiting_since = None
                self.idle_seconds += monotonic() - began

        wait = hub.wait

        def wait_for_time_only(seconds: float | None = None) -> Any:
            """Without any descriptor to watch the hub sleeps and does not poll."""
            if any(hub.listeners.values()):
                return wait(seconds)
            self._waiting_since = began = monotonic()
            try:
                return wait(seconds)
            finally:
                self._waiting_since = None
                self.idle_seconds += monotonic() - began

        hub.do_poll = do_poll
        hub.wait = wait_for_time_only
        self._installed_at = monotonic()

    def busy_seconds(self) -> float:
        """Seconds since `install` in which the hub ran something."""
        if self._installed_at is None:
            return 0.0
        now, since = monotonic(), self._waiting_since
        idle = self.idle_seconds + (now - since if since is not None else 0.0)
        return max(0.0, now - self._installed_at - idle)


def blocking_detection() -> bool:
    """Whether somebody switched on Eventlet's own, which raises into whatever runs."""
    from eventlet import hubs  # noqa: PLC0415

    return bool(getattr(hubs.get_hub(), "debug_blocking", False))


def frame_of_running_task(main_thread_id: int) -> Any:
    """The innermost frame of the hub's thread. May be called from any thread."""
    return sys._current_frames().get(main_thread_id)
