"""Figures of a live run, defined as the simulator defines them (`greenfleet.simulator.figures`)."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

from bench.scaling.record import Record
from greenfleet.simulator.figures import percentile
from greenfleet.simulator.traces import Trace


@dataclass(frozen=True, slots=True)
class Figures:
    """One autoscaler on one trace, after the warm-up. Times in seconds."""

    violated_s: int
    """Seconds in which some message had been waiting for longer than maxWait."""
    wait_p50: float
    wait_p99: float
    wait_max: float
    worker_seconds: float
    """Pods that exist, starting and draining ones included, times seconds. For messages that are left at the end: its
    last pods, until the last of those messages is done.
    """
    thread_seconds: float
    first_capacity_s: float | None
    """From the burst to more green threads or one more Ready worker; from no Ready worker at all, to the first task
    that is started.
    """
    full_capacity_s: float | None
    """From the burst to the most Ready workers that this run has after it; None: it never has more than before."""
    scale_actions: int
    lost: int
    """Published and never executed to the end."""
    killed: int
    """Starts that came to no end."""
    twice: int
    """Messages that were executed to the end more than once."""
    left: int
    """Messages that were waiting when the trace ended; they were executed afterwards, unmeasured."""
    queries_per_s: float | None
    writes: int

    def as_dict(self) -> dict[str, float | int | None]:
        return {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()}


def figures(record: Record, trace: Trace) -> Figures:
    """Of one record."""
    end = trace.seconds
    waits = []
    violated = set()
    for task in record.tasks:
        started = end if task.started is None else min(task.started, end)
        if task.published >= end:
            continue
        if started > trace.warmup and task.started is not None and task.started <= end:
            waits.append(started - task.published)
        first = int(max(task.published + trace.max_wait, trace.warmup)) + 1
        violated.update(range(first, int(started) + 1))
    still = [end - task.published for task in record.tasks if task.started is None or task.started > end]
    waits.sort()
    measured = [second for second in record.seconds if trace.warmup < second.at <= end]
    spans = [(one, two.at - one.at) for one, two in itertools.pairwise(measured)]
    spans += [(one, max(0.0, end - one.at)) for one in measured[-1:]]
    first_s, full_s = _capacity(trace, record)
    return Figures(
        violated_s=len(violated),
        wait_p50=percentile(waits, 0.5),
        wait_p99=percentile(waits, 0.99),
        wait_max=max([*waits[-1:], *still, 0.0]),
        worker_seconds=sum(second.pods * span for second, span in spans) + _debt(record, end, left=bool(still)),
        thread_seconds=sum(second.threads * span for second, span in spans),
        first_capacity_s=first_s,
        full_capacity_s=full_s,
        scale_actions=sum(1 for one, two in itertools.pairwise(measured) if one.replicas != two.replicas),
        lost=sum(1 for task in record.tasks if not task.ends),
        killed=sum(max(0, task.starts - task.ends) for task in record.tasks),
        twice=sum(1 for task in record.tasks if task.ends > 1),
        left=len(still),
        queries_per_s=record.queries,
        writes=sum(record.writes.values()),
    )


def longest_gap(record: Record) -> float:
    """Seconds between two looks of the observer, at most: on a starved machine the API answers late, and what was
    between is not known.
    """
    return max((two.at - one.at for one, two in itertools.pairwise(record.seconds)), default=0.0)


def _debt(record: Record, end: float, *, left: bool) -> float:
    """Else it would pay to leave work until after the trace."""
    if not left or record.drained_at is None or not record.seconds:
        return 0.0
    return record.seconds[-1].pods * max(0.0, record.drained_at - end)


def _capacity(trace: Trace, record: Record) -> tuple[float | None, float | None]:
    """As the observer saw it, once a second. Where no worker was Ready when the burst came, the ledger knows better:
    somebody started a task.
    """
    burst = trace.burst_at
    if burst is None:
        return None, None
    before = [second for second in record.seconds if second.at <= burst]
    after = [second for second in record.seconds if burst < second.at <= trace.seconds]
    threads = before[-1].threads if before else 0
    ready = before[-1].ready if before else 0
    most = max((second.ready for second in after), default=0)
    seen = [second.at for second in after if second.threads > threads or second.ready > ready][:1]
    if ready == 0:
        seen += [
            task.started for task in record.tasks if task.started is not None and burst < task.started <= trace.seconds
        ]
    full = next(second.at - burst for second in after if second.ready == most) if most > ready else None
    return min(seen) - burst if seen else None, full
