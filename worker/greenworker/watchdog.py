"""The hub's beat, and a real thread that watches it: lag, utilisation, and the name of the task that blocks.

Eventlet's own blocking detection raises into whatever runs; this one only looks.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from greenworker import hub, unpatched
from greenworker.runtime import Runtime

BEAT_SECONDS = 0.05
"""20 beats a second cost 0.04 % of a core."""

PLACES_LOGGED = 50
"""Stacks are logged once per function, and for so many functions."""

_SCHEDSTAT = Path(f"/proc/self/task/{os.getpid()}/schedstat")
"""Of the main thread, whose id is the process's."""

UNKNOWN = "unknown"
"""The hub was blocked, and no task was on its stack: Celery itself, a callback, the garbage collector."""


class Watchdog:
    """Greenthread and thread together; the only thing they share is two floats and a counter's cell."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.warn_after = runtime.environment.warn_after_seconds
        self._places: set[tuple[str, str, str]] = set()
        self._catching = False

    def start(self) -> None:
        """From the hub's thread."""
        self.runtime.idle_clock.install()
        self.runtime.last_beat = monotonic()
        hub.spawn(self._beat)
        unpatched.start_thread(self._watch, ())

    def _beat(self) -> None:
        lag = self.runtime.accounting.hub_lag.child()
        while True:
            due = monotonic() + BEAT_SECONDS
            hub.sleep(BEAT_SECONDS)
            now = monotonic()
            lag.observe(max(0.0, now - due))
            self.runtime.last_beat = now

    def _watch(self) -> None:
        """Every millisecond of a block is put down to the task that was seen in it."""
        step = max(0.02, min(self.warn_after / 2, 0.25))
        charged_until = 0.0
        silence = Silence()
        while True:
            unpatched.sleep(step)
            beat = self.runtime.last_beat
            if beat is None or silence.seconds(beat) < BEAT_SECONDS + self.warn_after:
                continue
            # Where both threads waited for the CPU, the hub may only be about to get it: look again.
            unpatched.sleep(0.005)
            if self.runtime.last_beat != beat or silence.seconds(beat) < BEAT_SECONDS + self.warn_after:
                continue
            now = monotonic()
            try:
                name = self._look()
            except Exception as error:
                unpatched.say(f"the watchdog could not read the stack: {error!r}")
                name = UNKNOWN
            since = max(beat + BEAT_SECONDS, charged_until)
            charged_until = now
            self.runtime.accounting.hub_blocked.child(name).value += max(0.0, now - since)

    def _look(self) -> str:
        frame = hub.frame_of_running_task(unpatched.main_thread_id)
        task = next(tasks_on(frame), None)
        name = task or UNKNOWN
        place = place_of(frame)
        if place is None or task is None:
            return name
        key = (task, place.f_code.co_filename, place.f_code.co_qualname)
        if key not in self._places and len(self._places) < PLACES_LOGGED:
            self._places.add(key)
            stack = "".join(traceback.format_stack(frame)[-12:])
            unpatched.say(
                f"the hub has been blocked for more than {self.warn_after:g} s by {name} at {place.f_code.co_filename}:{place.f_lineno}; all "
                f"other tasks of this worker wait meanwhile\n{stack}"
            )
        return name


class Silence:
    """How long the hub has been silent by its own fault: without the time in which it wanted to run and did not get the CPU.

    A CPU limit freezes a process for most of each 100 ms, and a crowded node is no better; no task is to blame for that.
    The kernel counts it per thread (`/proc/PID/task/TID/schedstat`, second field: nanoseconds waiting on a run queue).
    """

    def __init__(self) -> None:
        self._beat: float | None = None
        self._delay = 0.0

    def seconds(self, beat: float) -> float:
        """Since `beat`, as of now."""
        delay = run_delay_seconds()
        if beat != self._beat:
            self._beat, self._delay = beat, delay
        return monotonic() - beat - (delay - self._delay)


def run_delay_seconds() -> float:
    """Seconds that the main thread has waited for a CPU so far; 0 where the kernel does not say."""
    try:
        content = _SCHEDSTAT.read_bytes()
        return int(content.split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost frame outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def tasks_on(frame: FrameType | None) -> Iterator[str]:
    """Names of the tasks whose tracer is on the stack, innermost first."""
    for step in frames(frame):
        if step.f_code.co_name == "trace_task" and step.f_code.co_filename.endswith("trace.py"):
            task: Any = step.f_locals.get("task") or step.f_locals.get("name")
            yield str(getattr(task, "name", task))


def place_of(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is neither the standard library's nor an installed package's; else the innermost one."""
    for step in frames(frame):
        name = step.f_code.co_filename
        if "site-packages" not in name and "/lib/python" not in name and not name.startswith("<"):
            return step
        if step.f_code.co_name == "trace_task":
            break
    return frame
