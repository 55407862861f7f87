"""Celery's process pool, which knows after a lost connection what its processes run.

Up to 5.5 Celery forgets all that runs: nobody acknowledges it, and on Redis, where it stays the worker's own, its
message is never settled. Up to 5.6 it forgets which processes are busy, and gives one of them the next task while
others are idle; and the time limits of what runs are lost. From 5.7 on Celery does this itself.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from time import monotonic
from typing import Any

from celery.concurrency.asynpool import AsynPool


class ProcessPool(AsynPool):  # type: ignore[misc]
    """What a process has accepted stays known until it ends."""

    def flush(self) -> None:
        """The connection is lost: what no process has accepted is forgotten, the broker delivers it again."""
        accepted = {number: job for number, job in self._cache.items() if job._accepted}
        busy = set(self._busy_workers)
        super().flush()
        for job in list(self._cache.values()):
            if not job._accepted:
                job.discard()
        self._cache.update({number: job for number, job in accepted.items() if not job.ready()})
        executing = {job._write_to.inqW_fd for job in self._cache.values() if is_sent(job)}
        self._busy_workers.update(busy & executing)

    def register_with_event_loop(self, hub: Any) -> None:
        """At the start, and when the worker has connected again: the timers of time limits may be gone."""
        super().register_with_event_loop(hub)
        for job in list(self._cache.values()):
            if job._time_accepted is not None and not job.ready() and job._job not in self._tref_for_id:
                self._limit_again(job, hub)

    def _limit_again(self, job: Any, hub: Any) -> None:
        """What is left of *job*'s limits, in seconds. As Celery does, the soft one arms the hard one; 0 is no limit."""
        runs_for = monotonic() - job._time_accepted
        soft, hard = (
            limit and max(limit - runs_for, FIRST_READ_SECONDS) for limit in (job._soft_timeout, job._timeout)
        )
        if soft and not hasattr(job, SOFT_LIMIT_IS_OVER):
            self._tref_for_id[job._job] = hub.call_later(soft, self._on_soft_timeout, job._job, soft, hard, hub)
        elif hard:
            self._tref_for_id[job._job] = hub.call_later(hard, self._on_hard_timeout, job._job)

    def _on_soft_timeout(self, job: int, soft: float, hard: float | None, hub: Any) -> None:
        """*job* is its number. The limit is raised in the task, once."""
        running = self._cache.get(job)
        if running is not None:
            if hasattr(running, SOFT_LIMIT_IS_OVER):
                return
            setattr(running, SOFT_LIMIT_IS_OVER, True)
        super()._on_soft_timeout(job, soft, hard, hub)


FIRST_READ_SECONDS = 1.0
"""A limit that was due while the worker had no connection waits so long: the result may be in the pipe, unread."""
SOFT_LIMIT_IS_OVER = "_soft_limit_is_over"
"""Attribute of a job."""


def is_sent(job: Any) -> bool:
    """Whether a process that lives has *job*, or a part of it, in its pipe. *job* is billiard's, or None."""
    return job is not None and job._write_to is not None and job._write_to._is_alive()
