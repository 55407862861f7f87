"""Routing by evidence: a task that was caught blocking the hub often enough moves to the prefork companion. Pure.

Catching a task once proves little (a page fault, a cold import). What counts is being caught in several separate moments
within a short time. A route then stays: the task no longer blocks because it was moved, so that calm is no evidence against
it. A human undoes it with an annotation of the pool, and turning `autoRoute` off undoes all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from greenfleet.resources.names import PREFIX

MOMENTS = 3
"""Separate catches that make a route."""
MOMENT_SECONDS = 10.0
"""Catches closer together than this are one moment."""
WINDOW_SECONDS = 600.0
"""Catches older than this are forgotten."""
MOST_REMEMBERED = 2_000
"""Entries of each kind for one pool. A worker tells a hundred names of tasks apart."""
Key = TypeVar("Key")
EXEMPT_ANNOTATION = f"{PREFIX}/keep-on-eventlet"
"""On a pool: names of tasks, comma separated, that evidence must not move."""
_NOT_TASKS = frozenset({"", "unknown", "other"})


def caught_again(moments: Sequence[float], now: float) -> tuple[float, ...]:
    """The moments at which a task was caught, with one at `now`."""
    recent = tuple(moment for moment in moments if now - moment <= WINDOW_SECONDS)
    if recent and now - recent[-1] < MOMENT_SECONDS:
        return recent
    return (*recent[-MOMENTS:], now)


def forget(known: dict[Key, Any], seen_at: Mapping[Key, float], now: float) -> None:
    """Drops what was last seen longer than `WINDOW_SECONDS` ago, which is longer than any condition remembers, and the oldest of
    what exceeds `MOST_REMEMBERED`. Times are Unix times.
    """
    if len(known) > MOST_REMEMBERED:
        for key in sorted(known, key=seen_at.__getitem__)[: len(known) - MOST_REMEMBERED]:
            del known[key]
    for key in [key for key in known if now - seen_at[key] > WINDOW_SECONDS]:
        del known[key]


def routes(
    before: Iterable[str], caught: Mapping[str, Sequence[float]], exempt: Iterable[str], now: float
) -> tuple[str, ...]:
    """Tasks that run in prefork workers because of evidence, sorted."""
    proven = {
        task
        for task, moments in caught.items()
        if task not in _NOT_TASKS and sum(now - moment <= WINDOW_SECONDS for moment in moments) >= MOMENTS
    }
    return tuple(sorted((set(before) | proven) - set(exempt)))


def exempt_tasks(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks that a human wants to keep on Eventlet."""
    return tuple(name.strip() for name in annotations.get(EXEMPT_ANNOTATION, "").split(",") if name.strip())
