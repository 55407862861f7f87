"""Decisions in plain sentences, for the person who asks why."""

from __future__ import annotations

from .model import DecisionReason


def count(number: float, noun: str) -> str:
    """`1 worker`, `4 workers`, `20,000 messages`."""
    rounded = round(number)
    plural = noun if rounded == 1 else f"{noun}s"
    return f"{rounded:,} {plural}"


def rate(per_second: float) -> str:
    """`83 tasks/s`, `0.40 tasks/s`, `no tasks`."""
    if per_second < 0.005:
        return "no tasks"
    digits = 0 if per_second >= 10 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f} tasks/s"


def seconds(duration: float) -> str:
    """`0.3 s`, `23 s`, `20 min`."""
    if duration >= 600:
        return f"{duration / 60:.0f} min"
    return f"{duration:.0f} s" if duration >= 10 else f"{duration:.1f} s"


def waits(messages: float) -> str:
    """`1 message waits`, `20,000 messages wait`."""
    return f"{count(messages, 'message')} {'waits' if round(messages) == 1 else 'wait'}"


def summary(replicas: int, threads: int, text: str) -> str:
    """The one line for `status.lastScale` and the Event."""
    fleet = f"{count(replicas, 'worker')} with {count(threads, 'green thread')} each" if replicas else "no worker"
    return f"{fleet}: {text}"


SMALLER = frozenset(
    {
        DecisionReason.MAX,
        DecisionReason.TOTAL,
        DecisionReason.BEHAVIOR,
        DecisionReason.PAUSED,
        DecisionReason.SATURATED_DOWNSTREAM,
        DecisionReason.STABILIZATION,
    }
)
"""What can keep a pool smaller than the load asks for."""
