"""Many runs of one autoscaler as one row: what all of its traces together cost, broke and waited."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from .figures import percentile
from .run import Run

RunKey = tuple[str, int]
"""Trace and seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row needs of one run. Waits are shares of the trace's maxWait."""

    worker_seconds: float
    violated_seconds: int
    wait_p50: float
    wait_p99: float
    runtime_inflation: float
    requeued: int


def outcome(run: Run) -> Outcome:
    """Of a finished run."""
    figures, max_wait = run.figures, run.trace.max_wait
    return Outcome(
        worker_seconds=figures.worker_seconds,
        violated_seconds=figures.violated_seconds,
        wait_p50=figures.wait_p50 / max_wait,
        wait_p99=figures.wait_p99 / max_wait,
        runtime_inflation=figures.runtime_inflation,
        requeued=figures.requeued,
    )


@dataclass(frozen=True, slots=True)
class Total:
    """One autoscaler over many traces, against another one over the same traces."""

    traces: int
    worker_seconds: float
    violated_seconds: int
    violated_traces: int
    violated_difference: int
    """Violated seconds more than the other autoscaler's."""
    wait_p50: float
    """Mean share of maxWait."""
    wait_p99: float
    runtime_inflation: float
    """Median over the traces."""
    runtime_inflation_p90: float
    requeued: int
    """Tasks that a drain cut off."""
    cost_ratio: float
    """Worker-seconds over those of the other autoscaler."""
    cost_error: float
    """Standard error of the ratio, for traces drawn anew (bootstrap)."""
    worse: int
    """Traces with more violated seconds than the other autoscaler's."""
    better: int


def total(runs: Mapping[RunKey, Outcome], reference: Mapping[RunKey, Outcome]) -> Total:
    """The row of *runs*, over the traces that both have; there must be one."""
    keys = sorted(runs.keys() & reference.keys())
    ours, theirs = [runs[key] for key in keys], [reference[key] for key in keys]
    pairs = list(zip(ours, theirs, strict=True))
    return Total(
        traces=len(keys),
        worker_seconds=sum(run.worker_seconds for run in ours),
        violated_seconds=sum(run.violated_seconds for run in ours),
        violated_traces=sum(run.violated_seconds > 0 for run in ours),
        violated_difference=sum(one.violated_seconds - other.violated_seconds for one, other in pairs),
        wait_p50=mean(run.wait_p50 for run in ours),
        wait_p99=mean(run.wait_p99 for run in ours),
        runtime_inflation=median(run.runtime_inflation for run in ours),
        runtime_inflation_p90=percentile(sorted(run.runtime_inflation for run in ours), 0.9),
        requeued=sum(run.requeued for run in ours),
        cost_ratio=_ratio(pairs),
        cost_error=_error(pairs),
        worse=sum(one.violated_seconds > other.violated_seconds for one, other in pairs),
        better=sum(one.violated_seconds < other.violated_seconds for one, other in pairs),
    )


def _ratio(pairs: Sequence[tuple[Outcome, Outcome]]) -> float:
    spent = sum(other.worker_seconds for _, other in pairs)
    return sum(one.worker_seconds for one, _ in pairs) / spent if spent > 0 else 1.0


def _error(pairs: Sequence[tuple[Outcome, Outcome]], draws: int = 200) -> float:
    if all(one == other for one, other in pairs):
        return 0.0
    randomness = random.Random(len(pairs))
    return stdev(_ratio(randomness.choices(pairs, k=len(pairs))) for _ in range(draws))
