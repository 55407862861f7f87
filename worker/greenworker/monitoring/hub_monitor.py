"""The hub's beat, and a real thread that watches it: lag, utilisation, and the name of the task that blocks.

Eventlet's own blocking detection raises into whatever runs; this one only looks.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from greenworker import hub, native
from greenworker.monitoring.metrics import CounterFunction, Family
from greenworker.monitoring.remedies import remedy_of

if TYPE_CHECKING:
    from greenworker.runtime import Runtime

TICK_SECONDS = 0.05
"""20 beats a second cost 0.04 % of a core."""

CALL_SITES_LOGGED = 50
"""Stacks are logged once per function, and for so many functions."""

MAIN_THREAD = Path(f"/proc/self/task/{os.getpid()}/schedstat")
"""The kernel's scheduling times of the main thread, whose id is the process's."""

THIS_THREAD = Path("/proc/thread-self/schedstat")

SECOND_LOOK_SECONDS = 0.005
"""Between two looks at a hub that seems to be blocked."""

UNKNOWN = "unknown"
"""The hub was blocked, and no task was on its stack: Celery itself, a callback, the garbage collector."""


@dataclass(frozen=True, slots=True)
class StackSample:
    """What the hub's thread was doing when somebody looked: file, line and name of its frames, innermost first. The
    frames themselves would keep the task's objects alive.
    """

    beat: float
    task: str = UNKNOWN
    file: str = ""
    line: int = 0
    function: str = ""
    stack: tuple[tuple[str, int, str], ...] = ()


class HubMonitor:
    """Greenthread and thread together; the only things they share are two floats and a counter's cell."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.warn_after = runtime.environment.warn_after_seconds
        self._places: set[tuple[str, str, str]] = set()
        self._stall = HubStall()
        self._early_sample: StackSample | None = None
        self._charged_until = 0.0
        self._charged_beat = 0.0
        self._charged = 0.0
        """Seconds put down to somebody since the beat of that time."""

    def start(self) -> None:
        """From the hub's thread."""
        self.runtime.idle_clock.install()
        now = monotonic()
        self._stall.beat(now)
        self.runtime.last_beat = now
        self.runtime.sample_now = self.sample_now
        self.runtime.own_stall = self._stall.seconds
        hub.spawn(self._beat)
        native.start_thread(self._watch, ())

    def sample_now(self) -> None:
        """For any of our other threads that has waited: whoever gets the interpreter first after C code kept it sees
        best.
        """
        beat, last = self.runtime.last_beat, self._early_sample
        if (
            beat is None
            or monotonic() - beat < TICK_SECONDS + self.warn_after
            or (last is not None and last.beat == beat)
        ):
            return
        sample = self._look(beat)
        if self._is_stalled(beat):
            self._early_sample = sample

    def _beat(self) -> None:
        lag = self.runtime.accounting.hub_lag.child()
        while True:
            due = monotonic() + TICK_SECONDS
            hub.sleep(TICK_SECONDS)
            now = monotonic()
            lag.observe(max(0.0, now - due))
            self._stall.beat(now)
            self.runtime.last_beat = now

    def _watch(self) -> None:
        """Every millisecond of a block is put down to the task that was seen in it."""
        step = max(0.02, min(self.warn_after / 2, 0.25))
        own = self._stall.watchdog = SchedulerTimes(THIS_THREAD)
        while True:
            before, began, delay = self.runtime.last_beat, monotonic(), own.seconds()[1]
            native.sleep(step)
            late = monotonic() - began - step
            beat = self.runtime.last_beat
            if beat is None:
                continue
            # If C code kept the interpreter, the main thread stands right behind it, and only until this thread lets go
            # of the interpreter for the first time, which any reading of a file does: look now, ask later.
            first = self._look(beat) if late > self.warn_after / 2 else None
            if first is not None and late - (own.seconds()[1] - delay) < self.warn_after / 2:
                first = None
            sample = self._confirm_held(first, before) if first is not None else self._confirm(beat)
            if sample is not None:
                self._charge(sample)

    def _confirm(self, beat: float) -> StackSample | None:
        """What blocks the hub now. Where both threads waited for the CPU, the hub may only be about to get it: look
        again.
        """
        if not self._is_stalled(beat):
            return None
        before = self._stall.used()
        native.sleep(SECOND_LOOK_SECONDS)
        if self.runtime.last_beat != beat or self._stall.waits(before) or not self._is_stalled(beat):
            return None
        return self._look(beat)

    def _confirm_held(self, sample: StackSample, before: float | None) -> StackSample | None:
        """What kept this thread from the interpreter, and with it the hub. *sample* was taken as soon as possible; a
        second look would come too late. If the hub has ticked again meanwhile, the block began with *before*, the last
        beat that this thread has seen, or with a later one.
        """
        silent, early, ended = self._is_stalled(sample.beat), self._early_sample, self.runtime.late_task
        if silent and sample.task != UNKNOWN:
            return sample
        since = sample.beat if silent else before
        if early is not None and since is not None and early.beat >= since and early.task != UNKNOWN:
            return early
        if ended is not None and since is not None and ended[0] >= since:
            return stack_sample(ended[0], ended[1], None)
        return sample if silent else None

    def _is_stalled(self, beat: float) -> bool:
        return self._stall.seconds(beat) >= TICK_SECONDS + self.warn_after

    def _look(self, beat: float) -> StackSample:
        """Without letting go of the interpreter."""
        frame = hub.frame_of_running_task(native.main_thread_id)
        task = next(tasks_on(frame), None)
        return StackSample(beat) if task is None else stack_sample(beat, task, frame)

    def _charge(self, sample: StackSample) -> None:
        now = monotonic()
        since, self._charged_until = max(sample.beat + TICK_SECONDS, self._charged_until), now
        if sample.beat != self._charged_beat:
            self._charged_beat, self._charged = sample.beat, 0.0
        blocked = self._stall.seconds(sample.beat) - TICK_SECONDS - self._charged
        blocked = max(0.0, min(blocked, now - since))
        self._charged += blocked
        self.runtime.accounting.hub_blocked.child(sample.task).value += blocked
        key = (sample.task, sample.file, sample.function)
        if sample.task == UNKNOWN or key in self._places or len(self._places) >= CALL_SITES_LOGGED:
            return
        self._places.add(key)
        remedy = remedy_of(sample.stack)
        stack = [traceback.FrameSummary(file, line, name) for file, line, name in reversed(sample.stack)]
        native.say(
            f"the hub has been blocked for more than {self.warn_after:g} s by {sample.task} at "
            f"{sample.file}:{sample.line}; all "
            "other tasks of this worker wait "
            f"meanwhile{f'; {remedy}' if remedy else ''}\n{''.join(traceback.format_list(stack))}".rstrip()
        )


def qualified_name(code: Any) -> str:
    """With the class before it, where Python says so (from 3.11 on)."""
    return str(getattr(code, "co_qualname", code.co_name))


def stack_sample(beat: float, task: Any, frame: FrameType | None) -> StackSample:
    """*task* is Celery's Task, or a name; without a line of its own on the stack, it is the line that defines it."""
    name = str(getattr(task, "name", task))
    place = place_of(frame)
    stack = tuple((step.f_code.co_filename, step.f_lineno or 0, step.f_code.co_name) for step in frames(frame))[:12]
    if place is not None:
        return StackSample(
            beat, name, place.f_code.co_filename, place.f_lineno or 0, qualified_name(place.f_code), stack
        )
    code = getattr(getattr(task, "run", None), "__code__", None)
    if code is None:
        return StackSample(beat, name, "an unknown place", 0, "", stack)
    return StackSample(beat, name, code.co_filename, code.co_firstlineno, qualified_name(code), stack)


class HubStall:
    """How long the hub has been silent by its own fault: without the time in which it wanted to run and did not get the
    CPU.

    A CPU limit freezes a process for most of each 100 ms, and a crowded node is no better; no task is to blame for
    that. The kernel counts it per thread (`/proc/PID/task/TID/schedstat`: nanoseconds on a CPU, nanoseconds waiting on
    a run queue), but a wait only once it is over. So two threads are looked at: the watchdog's own waits, which are
    over whenever it looks, stand for the wait that the hub may be in, or for the time in which it waits for an
    interpreter that the watchdog keeps without a CPU. The CPU that the hub has used since its last beat counts in any
    case. And a hub that waits for a CPU at the moment at which it is looked at is not blocked then.
    """

    def __init__(self) -> None:
        self._main = SchedulerTimes(MAIN_THREAD)
        self.watchdog: SchedulerTimes | None = None
        """Of the thread that looks; None until it runs."""
        self._at_beat: tuple[float, float, float] | None = None

    def beat(self, beat: float) -> None:
        """The hub ticked at *beat*. From the hub's thread."""
        self._at_beat = (beat, *self._times())

    def seconds(self, beat: float) -> float:
        """Since `beat`, as of now."""
        before = self._at_beat
        if before is None or before[0] != beat:  # it has ticked again
            return monotonic() - beat
        used, waited = self._times()
        return max(used - before[1], monotonic() - beat - (waited - before[2]))

    def used(self) -> float:
        """Seconds of CPU that the hub has used so far."""
        return self._main.seconds()[0]

    def waits(self, used: float) -> bool:
        """Whether the hub waits for a CPU now: it could run, and has used none since it had used *used*."""
        return self._main.is_runnable() and self.used() == used > 0

    def _times(self) -> tuple[float, float]:
        """The CPU of the hub, and the waits of both."""
        used, waited = self._main.seconds()
        return used, waited + (self.watchdog.seconds()[1] if self.watchdog is not None else 0.0)


def hub_cpu_wait() -> Family:
    """How long the hub has wanted to run and did not get a CPU: for its limit, or for its neighbours on the node."""
    main = SchedulerTimes(MAIN_THREAD)
    return CounterFunction(
        "greenworker_hub_cpu_wait_seconds_total",
        "Seconds the hub wanted to run and had no CPU.",
        lambda: main.seconds()[1],
    )


class SchedulerTimes:
    """Seconds that a thread has had a CPU, and has waited for one. The file stays open: it is read forty times a
    second.
    """

    def __init__(self, schedstat: Path) -> None:
        """`/proc/thread-self` means the thread that opens it."""
        self._times = opened(schedstat)
        self._state = opened(schedstat.with_name("stat"))

    def is_runnable(self) -> bool:
        """Running, or waiting for a CPU (proc(5), state `R`)."""
        try:
            return os.pread(self._state, 256, 0).rpartition(b") ")[2][:1] == b"R"
        except OSError:
            return False

    def seconds(self) -> tuple[float, float]:
        """On a CPU, and waiting for one; 0 where the kernel does not say."""
        try:
            used, waited = os.pread(self._times, 64, 0).split()[:2]
            return int(used) / 1e9, int(waited) / 1e9
        except (OSError, ValueError):
            return 0.0, 0.0


def opened(path: Path) -> int:
    """A descriptor for reading, -1 where there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost frame outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def tasks_on(frame: FrameType | None) -> Iterator[Any]:
    """The tasks (or their names) whose tracer is on the stack, innermost first."""
    for step in frames(frame):
        if is_tracer(step):
            yield step.f_locals.get("task") or step.f_locals.get("name")


def is_tracer(frame: FrameType) -> bool:
    """Celery's function that runs one task."""
    return frame.f_code.co_name == "trace_task" and frame.f_code.co_filename.endswith("trace.py")


def place_of(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is neither the standard library's nor an installed package's; else the innermost one
    above Celery's tracer; None if there is none.
    """
    inner = None
    for step in frames(frame):
        if is_tracer(step):
            break
        inner = inner or step
        name = step.f_code.co_filename
        if "site-packages" not in name and "/lib/python" not in name and not name.startswith("<"):
            return step
    return inner
