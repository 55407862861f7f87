"""The account of a run, and whether it was good. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demo import timeline as seen
from demo.pattern import BURST
from demo.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Summary:
    """What is printed at the end."""

    sent: int
    done: int
    lost: int
    twice: int
    unknown: int
    waited_max_seconds: float
    waited_p50_seconds: float
    waited_p99_seconds: float
    objective_seconds: float
    """The pool's `maxWait`."""
    first_threads_seconds: float | None
    """From the burst until the fleet had more green threads; None: never."""
    first_worker_seconds: float | None
    """From the burst until one more worker was Ready; None: never."""
    drained_seconds: float | None
    """From the burst until nothing was left to do; None: never."""
    most_workers: int
    most_threads: int
    worker_seconds: float
    ended_at_zero: bool
    failures: tuple[str, ...]
    """Why the run was not good; empty if it was."""

    @property
    def good(self) -> bool:
        """Nothing lost, and no worker left."""
        return not self.failures


def summarize(timeline: Timeline, account: Mapping[str, Any], *, objective_seconds: float, error: str = "") -> Summary:
    """Work out the summary; `account` is the producer's `/account`."""
    snapshots = timeline.snapshots
    burst = timeline.mark(BURST)
    ended_at_zero = bool(snapshots) and snapshots[-1].desired == 0 and not snapshots[-1].workers
    return Summary(
        sent=int(account["sent"]),
        done=int(account["done"]),
        lost=int(account["lost"]),
        twice=int(account["twice"]),
        unknown=int(account["unknown"]),
        waited_max_seconds=float(account["waited_max_seconds"]),
        waited_p50_seconds=float(account["waited_p50_seconds"]),
        waited_p99_seconds=float(account["waited_p99_seconds"]),
        objective_seconds=objective_seconds,
        first_threads_seconds=seen.seconds_to_more_threads(snapshots, burst.at) if burst else None,
        first_worker_seconds=seen.seconds_to_more_workers(snapshots, burst.at) if burst else None,
        drained_seconds=_drained(timeline, burst.at) if burst else None,
        most_workers=max((snapshot.ready for snapshot in snapshots), default=0),
        most_threads=max((snapshot.threads for snapshot in snapshots), default=0),
        worker_seconds=seen.worker_seconds(snapshots),
        ended_at_zero=ended_at_zero,
        failures=tuple(_failures(account, ended_at_zero=ended_at_zero, error=error)),
    )


def _drained(timeline: Timeline, since: float) -> float | None:
    """Everything that was sent by then has been executed, for the first time after the last message."""
    return next(
        (
            snapshot.at - since
            for snapshot in timeline.snapshots
            if snapshot.at > since and snapshot.finished and snapshot.executions >= snapshot.sent
        ),
        None,
    )


def _failures(account: Mapping[str, Any], *, ended_at_zero: bool, error: str) -> list[str]:
    failures = [error] if error else []
    if account["sent"] == 0:
        failures.append("nothing was sent")
    if account["lost"]:
        failures.append(f"{account['lost']} tasks were lost")
    if account["unknown"]:
        failures.append(f"{account['unknown']} tasks were executed that nobody sent: the ledger cannot be believed")
    if not ended_at_zero:
        failures.append("the pool did not end at zero workers")
    return failures


def rows(summary: Summary) -> list[tuple[str, str]]:
    """Label and value, in the order in which they are printed."""
    within = "within" if summary.waited_max_seconds <= summary.objective_seconds else "BEYOND"
    return [
        ("sent", f"{summary.sent:,}"),
        ("done", f"{summary.done:,}"),
        ("lost", f"{summary.lost:,}"),
        ("delivered twice", f"{summary.twice:,}"),
        ("longest wait", f"{summary.waited_max_seconds:.1f} s, {within} maxWait of {summary.objective_seconds:.0f} s"),
        ("wait p50 / p99", f"{summary.waited_p50_seconds:.1f} s / {summary.waited_p99_seconds:.1f} s"),
        ("burst → more green threads", _after(summary.first_threads_seconds)),
        ("burst → first new worker ready", _after(summary.first_worker_seconds)),
        ("burst → everything done", _after(summary.drained_seconds)),
        ("most workers, green threads", f"{summary.most_workers}, {summary.most_threads:,}"),
        ("worker-seconds spent", f"{summary.worker_seconds:.0f}"),
        ("workers at the end", "zero" if summary.ended_at_zero else "NOT zero"),
    ]


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"
