"""Auto-routing: a task that blocked the hub often enough moves to the prefork companion. Nothing here knows the API
server.

Seeing a task block once proves little (a page fault, a cold import). What counts is being seen in several separate
moments within a short time. A route then stays: the task no longer blocks because it was moved, so that calm proves
nothing. A human undoes it with an annotation of the pool, and turning `autoRoute` off undoes all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from greenfleet.manifests.names import PREFIX

MOMENTS = 3
"""Separate detections that make a route."""
MOMENT_SECONDS = 10.0
"""Detections closer together than this are one moment."""
WINDOW_SECONDS = 600.0
"""Detections older than this are forgotten."""
MOST_ROUTES, LONGEST_TASK = 100, 300
"""What `status.blockingTasks` has room for."""
MOST_EXEMPT = 1_000
EXEMPT_ANNOTATION = f"{PREFIX}/keep-on-eventlet"
"""On a pool: names of tasks, comma separated, that auto-routing must not move."""
_NOT_TASKS = frozenset({"", "unknown", "other"})


def block_detections(moments: Sequence[float], now: float) -> tuple[float, ...]:
    """The moments at which a task was seen blocking, with one at `now`."""
    recent = tuple(moment for moment in moments if now - moment <= WINDOW_SECONDS)
    if recent and now - recent[-1] < MOMENT_SECONDS:
        return recent
    return (*recent[-MOMENTS:], now)


def routes(
    before: Iterable[str], detections: Mapping[str, Sequence[float]], exempt: Iterable[str], now: float
) -> tuple[str, ...]:
    """Tasks that run in prefork workers because they blocked the hub, sorted."""
    proven = {
        task
        for task, moments in detections.items()
        if task not in _NOT_TASKS and sum(now - moment <= WINDOW_SECONDS for moment in moments) >= MOMENTS
    }
    # Those that are routed stay, whatever is detected after them.
    kept, spared = dict.fromkeys([*before, *sorted(proven)]), set(exempt)
    known = [task for task in kept if task not in spared and len(task) <= LONGEST_TASK]
    return tuple(sorted(known[:MOST_ROUTES]))


def exempt_tasks(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks that a human wants to keep on Eventlet: the first `MOST_EXEMPT` of them, for it is asked at every tick."""
    names = annotations.get(EXEMPT_ANNOTATION, "").split(",", MOST_EXEMPT)[:MOST_EXEMPT]
    return tuple(name.strip() for name in names if name.strip())
