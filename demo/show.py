"""The show itself: start the load, watch until it is over, and hand back the timeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.api import Api
from demo.faults import Faults, Timing
from demo.live import View
from demo.observer import PRODUCER, PRODUCER_PORT, Observer
from demo.pattern import BURST, FEEDS, Phase
from demo.stage import NAMESPACE
from demo.timeline import Mark, Reason, Snapshot, Timeline, to_line

LOOK_SECONDS = 1.0
LIMIT_SECONDS = 600.0
"""A run that takes longer than this has failed; the demo must come to an end by itself."""
STILL_SECONDS = 30.0
"""With zero workers and an empty queue, this long without progress means that what is missing will not come."""


@dataclass(frozen=True, slots=True)
class Show:
    """What is to be played."""

    run: str
    phases: tuple[Phase, ...]
    pool: str
    faults: Timing | None
    """None: nothing breaks."""
    limit_seconds: float = LIMIT_SECONDS


class Recorder:
    """Keeps the timeline in memory and in a file, line by line."""

    def __init__(self, path: Path) -> None:
        self.timeline = Timeline()
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def add(self, entry: Snapshot | Reason | Mark) -> None:
        """From any thread."""
        with self._lock:
            self.timeline.add(entry)
            self._file.write(to_line(entry) + "\n")

    def close(self) -> None:
        """No more entries."""
        self._file.close()


def play(show: Show, api: Api, observer: Observer, recorder: Recorder, view: View) -> str:
    """Play it to the end. Returns what went wrong, or nothing."""
    phases = [phase.for_producer() for phase in show.phases]
    api.post(NAMESPACE, PRODUCER, PRODUCER_PORT, "/runs", {"run": show.run, "feeds": FEEDS, "phases": phases})
    faults = Faults(api, recorder.add, show.faults) if show.faults else None
    try:
        return _watch(show, observer, recorder, view, on_burst=faults.start if faults else lambda: None) or (
            faults.error if faults else ""
        )
    finally:
        if faults:
            faults.end()


def _watch(show: Show, observer: Observer, recorder: Recorder, view: View, *, on_burst: Callable[[], None]) -> str:
    phase = ""
    began = moved = time.monotonic()
    executions = -1
    while True:
        looked = time.monotonic()
        snapshot, reasons = observer.look()
        for reason in reasons:
            recorder.add(reason)
        if snapshot.phase != phase:
            phase = snapshot.phase
            recorder.add(Mark(snapshot.phase_started_at, phase, _title(show.phases, phase)))
            if phase == BURST:
                on_burst()
        recorder.add(snapshot)
        view.show(recorder.timeline)
        if snapshot.executions != executions or not snapshot.finished:
            executions, moved = snapshot.executions, looked
        if over(snapshot):
            return ""
        if snapshot.producer_error:
            return f"the producer stopped: {snapshot.producer_error}"
        if looked - began > show.limit_seconds:
            return f"it was not over after {show.limit_seconds:.0f} s"
        if not snapshot.workers and not snapshot.waiting and looked - moved > STILL_SECONDS:
            return ""  # the account will say what is missing
        time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - looked)))


def over(snapshot: Snapshot) -> bool:
    """Everything was published and executed, and no worker is left."""
    done = snapshot.finished and snapshot.executions >= snapshot.sent > 0
    return done and not snapshot.waiting and snapshot.desired == 0 and not snapshot.workers


def _title(phases: tuple[Phase, ...], name: str) -> str:
    return next((phase.title for phase in phases if phase.name == name), name)
