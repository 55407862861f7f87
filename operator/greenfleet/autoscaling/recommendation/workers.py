"""Workers for the rate and workers for the deadline.

A rate needs so many workers for ever; a backlog needs so many until its deadline. Taking the larger of the two keeps
both promises, and neither needs a safety factor of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ..context import DeadlineDemand
from ..estimation.arrivals import Waiting
from ..estimation.service import Capacity
from ..model import ScalingSpec
from ..tuning import DEFAULT, Tuning
from ..validation import Observation


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


def existing(
    observation: Observation, replicas: int, worker: Capacity, now: float, tuning: Tuning = DEFAULT
) -> Existing:
    """The fleet in the sample. A replica whose pod does not exist yet has its whole start-up before it."""
    serving, startup = len(observation.serving), worker.startup_seconds
    ages = [now - pod.created_at for pod in observation.coming]
    overdue_age = max(tuning.long_seconds, tuning.lasting_scrapes * startup)
    coming = sorted(max(0.0, startup - age) for age in ages if age <= overdue_age)
    broken = len(ages) - len(coming)
    uncreated = max(0, replicas - serving - len(ages))
    return Existing(
        now=now,
        replicas=max(0, replicas - broken),
        serving=serving,
        pending=(*coming, *([startup] * uncreated)),
        busy=sum(sample.threads_busy for sample in observation.workers) / max(1, serving),
        overdue=broken if serving > 0 else 0,
    )


def for_rate(rate: float, fleet: Existing, worker: Capacity) -> int:
    """Workers with which nothing piles up at `rate` messages per second."""
    enough = ceil(rate / worker.rate - 1e-9) if worker.rate > 0 else 0
    return enough + (fleet.overdue if enough else 0)


def deferred(  # noqa: PLR0917
    spec: ScalingSpec, enough: int, unstarted: float, fleet: Existing, worker: Capacity, tuning: Tuning
) -> int:
    """`enough` workers for the rate, once they are needed.

    New workers bring nothing before messages would be late without them: if so many served from now on, the new ones
    after their start-up, and the message that comes now would still start within the objective, they can come later, or
    never, for rates fall and an estimate may be a little too high.
    """
    then = enough - fleet.overdue
    if not 0 < fleet.replicas < then or not tuning.uses("rate-deferral"):
        return enough
    not_yet = (then - fleet.replicas) * worker.startup_seconds + sum(fleet.pending)
    bearable = then * (spec.max_wait_seconds - margin_seconds(spec, tuning)) - not_yet
    return enough if unstarted >= bearable * worker.rate else fleet.replicas + fleet.overdue


def margin_seconds(spec: ScalingSpec, tuning: Tuning) -> float:
    """What passes before a decision has an effect: scrape, tick, patch. Never more than half the objective."""
    delay = 1.5 * spec.scrape_interval_seconds + 1 + tuning.margin * spec.max_wait_seconds
    return min(spec.max_wait_seconds / 2, delay)


def for_deadline(
    spec: ScalingSpec, waiting: Sequence[Waiting], fleet: Existing, worker: Capacity, tuning: Tuning = DEFAULT
) -> DeadlineDemand | None:
    """The fewest workers with which every waiting message starts before its deadline.

    Workers that run count for all of the time that is left, new ones for what is left after their start-up. A plan
    leaves a margin; a fleet that is a little behind its plan may use most of it before more workers come, for they
    would arrive when the work is nearly done. A message that is late already cannot be saved; it gets the workers that
    clear it soon at a bounded price.
    """
    catch_up, margin = tuning.catch_up * spec.max_wait_seconds, margin_seconds(spec, tuning)
    # With seldom scrapes, a fleet that falls behind is seen too late.
    often = tuning.lasting_scrapes * spec.scrape_interval_seconds <= tuning.rate_window_seconds
    slack = tuning.slack * margin if often and tuning.uses("deadline-slack") else 0.0
    worst: DeadlineDemand | None = None
    for batch in waiting:
        left = spec.max_wait_seconds - margin - (fleet.now - batch.since)
        running = _starts(worker, fleet.busy, left) * fleet.serving
        late = running < batch.amount and left < worker.startup_seconds
        within = max(left, worker.startup_seconds + catch_up) if late and tuning.uses("catch-up") else left
        count = _fewest(batch.amount, within, worker, fleet)
        if count > fleet.replicas and slack > 0:
            within += slack
            count = max(fleet.replicas, _fewest(batch.amount, within, worker, fleet))
        if worst is None or count + fleet.overdue > worst.workers:
            worst = DeadlineDemand(batch.amount, within, count + fleet.overdue, late)
    return worst


def _starts(worker: Capacity, busy: float, seconds: float) -> float:
    """Tasks that a worker which runs `busy` of them starts within `seconds`: into free green threads at once, then as
    tasks end.
    """
    if seconds <= 0:
        return 0.0
    threads, rounds = worker.safe_threads, seconds / worker.runtime_seconds
    by_threads = max(max(0.0, threads - busy) + min(busy, threads) * rounds, threads * rounds)
    return worker.efficiency * min(by_threads, worker.cpu_rate * seconds)


def _fewest(messages: float, seconds: float, worker: Capacity, fleet: Existing) -> int:
    running = _starts(worker, fleet.busy, seconds)
    left = messages - running * fleet.serving
    if running > 0 and left <= 0:
        return ceil(messages / running - 1e-9)
    count = fleet.serving
    for wait in fleet.pending:
        if left > 0:
            left, count = left - _starts(worker, 0.0, seconds - wait), count + 1
    fresh = _starts(worker, 0.0, seconds - worker.startup_seconds)
    more = ceil(left / fresh - 1e-9) if fresh > 0 else 1
    return count + (more if left > 0 else 0)
