"""What was delivered and has not started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery.worker import state

if TYPE_CHECKING:
    from greenworker.pool.consumer import Consumer


class ScheduledRequests(WeakSet[Any]):
    """What is held for an ETA, which Celery 5.6 does not know: it only sets a timer. 5.7 has a set of that name."""

    def __init__(self, timer: Any) -> None:
        super().__init__()
        self.timer = timer
        call_at = timer.call_at

        def remember(eta: Any, function: Any, arguments: Any = (), *more: Any, **options: Any) -> Any:
            entry = call_at(eta, function, arguments, *more, **options)
            if arguments and hasattr(arguments[0], "message"):
                arguments[0]._eta_timer_entry = entry
                self.add(arguments[0])
            return entry

        timer.call_at = remember

    def cancel(self) -> None:
        """The connection is lost, and the broker delivers them again; 5.6 would let the timers fire as well."""
        for request in tuple(self):
            self.timer.cancel(request._eta_timer_entry)
        self.clear()


def unstarted_requests(c: Consumer, *, clear: bool = True) -> list[Any]:
    """Everything that was delivered and has not started: in line, held for an ETA, waiting for a rate limit."""
    running = {id(job.request) for job in c.pool.running()}
    found = {id(request): request for request in [*state.reserved_requests, *state.scheduled_requests]}
    for bucket in c.task_buckets.values():
        if bucket:
            found.update((id(entry[0]), entry[0]) for entry in bucket.contents)
            if clear:
                bucket.clear_pending()
    return [request for key, request in found.items() if key not in running and request not in state.active_requests]
