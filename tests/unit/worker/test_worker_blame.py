"""Whom the watchdog blames when it comes too late to see for itself, because C code kept the interpreter."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from greenworker.monitoring.hub_monitor import HubMonitor, StackSample
from greenworker.runtime import Runtime

WARN_AFTER = 0.1


class Process:
    """The parts of a runtime that the watchdog reads, with the runtime's own `task_ended`."""

    def __init__(self, last_beat: float) -> None:
        self.environment = SimpleNamespace(warn_after_seconds=WARN_AFTER)
        self.last_beat = last_beat
        self.own_stall = None
        self.late_task: tuple[float, Any] | None = None

    def task_ended(self, name: str) -> None:
        Runtime.task_ended(self, SimpleNamespace(name=name))  # type: ignore[arg-type]


@pytest.fixture
def blocked_since() -> float:
    """The last beat before the block."""
    return monotonic() - 1


def blamed(process: Process, *, seen_before: float) -> str | None:
    """By a thread that saw *seen_before* as the last beat before it waited for the interpreter, and gets it now."""
    watchdog = HubMonitor(process)  # type: ignore[arg-type]
    sight = watchdog._confirm_held(StackSample(process.last_beat), seen_before)
    return sight.task if sight is not None else None


def test_a_task_that_has_ended_when_the_hub_has_not_ticked_yet(blocked_since: float) -> None:
    process = Process(blocked_since)
    process.task_ended("parse")
    assert blamed(process, seen_before=blocked_since) == "parse"


@pytest.mark.parametrize("ticks_between", [0.0, 0.04])
def test_a_task_that_has_ended_when_the_hub_ticks_again(blocked_since: float, ticks_between: float) -> None:
    """The hub may have ticked once more between the thread's last look and the block."""
    process = Process(blocked_since)
    process.task_ended("parse")
    process.last_beat = monotonic()
    assert blamed(process, seen_before=blocked_since - ticks_between) == "parse"


def test_the_first_to_end_after_the_block_and_not_those_that_waited(blocked_since: float) -> None:
    process = Process(blocked_since)
    process.task_ended("parse")
    process.task_ended("waited")
    assert blamed(process, seen_before=blocked_since) == "parse"


def test_nobody_for_a_block_that_was_over_before(blocked_since: float) -> None:
    process = Process(blocked_since)
    process.task_ended("parse")
    process.last_beat = monotonic()
    assert blamed(process, seen_before=process.last_beat) is None


def test_nobody_who_was_not_late() -> None:
    process = Process(monotonic())
    process.task_ended("quick")
    assert process.late_task is None
