"""Workers for the rate and workers for the deadline.

A rate needs so many workers for ever; a backlog needs so many until its deadline. Taking the larger of the two keeps both
promises, and neither needs a safety factor of its own (in simulation, margins upon margins cost 1.2–2.2 times as much and
bought nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from .arrivals import Waiting
from .capacity import Capacity
from .model import ScalingSpec
from .tuning import DEFAULT, Tuning
from .validation import Observation

OVERDUE_SECONDS = 60.0
OVERDUE_STARTUPS = 3.0
"""A pod that is not Ready after the longer of the two does not count as capacity on its way."""
LENIENCE = 0.6
"""Of the margin: how far a fleet may fall behind its plan before more workers come."""
CLEARING_SECONDS = 9.0
CLEARING_WAITS = 0.3
"""Of the objective, if that is longer: how long new workers may take for messages that are due before they are Ready."""


@dataclass(frozen=True, slots=True)
class DeadlineDemand:
    """The backlog that decided, and what it asked for."""

    messages: float
    """Must start."""
    within_seconds: float
    workers: int
    late: bool
    """The objective is out of reach for its oldest message, whatever is done now."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The fleet as it stands."""

    now: float
    replicas: int
    """Without the ones that do not come up."""
    serving: int
    pending: tuple[float, ...]
    """For each worker that is not Ready yet: seconds until it probably is, the soonest first."""
    busy: float
    """Running tasks per serving worker."""
    overdue: int
    """Pods that should long have been Ready, where others are: they are wanted again, elsewhere."""


def existing(view: Observation, replicas: int, worker: Capacity, now: float) -> Existing:
    """The fleet in the sample. A replica whose pod does not exist yet has its whole start-up before it."""
    serving = len(view.serving)
    ages = [now - pod.created_at for pod in view.coming]
    patience = max(OVERDUE_SECONDS, OVERDUE_STARTUPS * worker.startup_seconds)
    coming = sorted(max(0.0, worker.startup_seconds - age) for age in ages if age <= patience)
    broken = len(ages) - len(coming)
    uncreated = max(0, replicas - serving - len(view.coming))
    working = sum(sample.threads_busy for sample in view.workers)
    return Existing(
        now=now,
        replicas=max(0, replicas - broken),
        serving=serving,
        pending=(*coming, *([worker.startup_seconds] * uncreated)),
        busy=working / max(1, serving),
        overdue=broken if serving > 0 else 0,
    )


def for_rate(
    spec: ScalingSpec, rate: float, unstarted: float, fleet: Existing, worker: Capacity, *, tuning: Tuning = DEFAULT
) -> int:
    """R_λ: workers that keep up with `rate` messages per second, once they are needed.

    Workers that a rate lacks bring nothing before messages would be late without them: if so many served from now on, the new ones after
    their start-up, and the message that comes now would still start within the objective, they can come later, or never, for rates fall
    and an estimate may be a little too high. What is there already stays while it is needed, so that a constant rate comes to rest.
    """
    enough = for_rate_at_once(rate, fleet, worker)
    if not 0 < fleet.replicas < enough - fleet.overdue or not tuning.uses("rate-deferral"):
        return enough
    per_worker = worker.rate(worker.safe_threads)
    then = enough - fleet.overdue
    not_yet = (then - fleet.replicas) * worker.startup_seconds + sum(fleet.pending)
    bearable = then * (spec.max_wait_seconds - margin_seconds(spec)) - not_yet
    if unstarted >= bearable * per_worker:
        return enough
    return fleet.replicas + fleet.overdue


def for_rate_at_once(rate: float, fleet: Existing, worker: Capacity) -> int:
    """The same without patience: nothing piles up."""
    per_worker = worker.rate(worker.safe_threads)
    enough = ceil(rate / per_worker - 1e-9) if per_worker > 0 else 0
    return enough + (fleet.overdue if enough else 0)


def margin_seconds(spec: ScalingSpec) -> float:
    """What passes before a decision has an effect: scrape, tick, patch. Never more than half the objective."""
    return min(spec.max_wait_seconds / 2, 1.5 * spec.scrape_interval_seconds + 1 + 0.05 * spec.max_wait_seconds)


def for_deadline(
    spec: ScalingSpec,
    waiting: Sequence[Waiting],
    fleet: Existing,
    worker: Capacity,
    tuning: Tuning = DEFAULT,
) -> DeadlineDemand | None:
    """R_D: the fewest workers with which every waiting message starts before its deadline.

    Workers that run count for all of the time that is left, new ones for what is left after their start-up. A plan leaves a
    margin; a fleet that is a little behind its plan may use most of it before more workers come, for they would arrive when
    the work is nearly done. So may new workers that would have a second for their part, and would have to be many. A message that is late
    already cannot be saved; it gets the workers that clear it soon at a bounded price.
    """
    soonest = worker.startup_seconds + max(CLEARING_SECONDS, CLEARING_WAITS * spec.max_wait_seconds)
    margin = margin_seconds(spec)
    worst: DeadlineDemand | None = None
    for due in waiting:
        left = spec.max_wait_seconds - margin - (fleet.now - due.since)
        running = _starts_of_running(worker, fleet.busy, max(left, 0.0)) * fleet.serving
        late = running < due.amount and left < worker.startup_seconds
        within = max(left, soonest) if late and tuning.uses("catch-up") else left
        count = _fewest(due.amount, within, worker, fleet)
        if count > fleet.replicas and tuning.uses("deadline-slack"):
            within += LENIENCE * margin
            count = max(fleet.replicas, _fewest(due.amount, within, worker, fleet))
        if worst is None or count > worst.workers:
            worst = DeadlineDemand(due.amount, within, count, late)
    return worst if worst is None else replace(worst, workers=worst.workers + fleet.overdue)


def _starts_of_running(worker: Capacity, busy: float, seconds: float) -> float:
    """Tasks that a running worker starts within `seconds`: into free green threads at once, then as tasks end."""
    threads = worker.safe_threads
    free = max(0.0, threads - busy)
    by_threads = max(
        free + min(busy, threads) * seconds / worker.runtime_seconds, threads * seconds / worker.runtime_seconds
    )
    return worker.efficiency * min(by_threads, worker.cpu_rate * seconds)


def _starts_of_new(worker: Capacity, seconds: float) -> float:
    """Tasks that a new worker starts within `seconds` of being Ready: all its green threads at once, then as tasks end."""
    if seconds <= 0:
        return 0.0
    threads = worker.safe_threads
    by_threads = max(float(threads), threads * seconds / worker.runtime_seconds)
    return worker.efficiency * min(by_threads, worker.cpu_rate * seconds)


def _fewest(messages: float, seconds: float, worker: Capacity, fleet: Existing) -> int:
    running = _starts_of_running(worker, fleet.busy, max(0.0, seconds))
    if running > 0 and running * fleet.serving >= messages:
        return ceil(messages / running - 1e-9)
    left, count = messages - running * fleet.serving, fleet.serving
    for wait in fleet.pending:
        if left <= 0:
            return count
        left -= _starts_of_new(worker, seconds - wait)
        count += 1
    if left <= 0:
        return count
    fresh = _starts_of_new(worker, seconds - worker.startup_seconds)
    return count + ceil(left / fresh - 1e-9) if fresh > 0 else count + 1
