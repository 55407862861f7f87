"""Did more of us bring more throughput? If not, the limit is elsewhere, and more of us only makes it worse.

A slow downstream inflates the run time S in proportion to concurrency while throughput stands still (Little's law: X = A/S).
That looks like "more workers needed" to any formula in S, and S grows with every answer to it, so the autoscaler runs an experiment
instead. While run time grows together with the saturated fleet, growth stops at a *rung*, three times the concurrency that
has proven itself, until the tasks that were started there have ended. Then throughput tells: what it gained makes the rung the
new base; if it stands still, the fleet goes back and stays there for a while. Going back is the second half of the experiment:
throughput that falls with it proves that the tasks themselves became slower, and lifts the freeze. Tasks that become slower
at a rung, where nothing grows, say the same without it.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf

from .capacity import Capacity
from .learning import THROUGHPUT_HALF_LIFE_SECONDS, CounterDelta
from .state import Point, Ratio, Scalability
from .validation import Observation

GROWN = 1.4
"""Concurrency must have grown so much before a comparison means anything."""
RUNG = 3.0
"""Of the proven concurrency: how far growth goes before it must have proven itself."""
SLOWER = 1.2
"""Run time over the base's, from which on growth may be the cause of what it answers."""
CPU_BOUND = 0.8
"""Of a core or of the hub's time: then more green threads bring nothing for a reason of our own, and more workers do. Well short of
all of it, for a node that is short of CPU and a worker that just came make the mean validate better than the hubs are."""
RETREAT = 0.6
"""Of the concurrency that brought nothing: enough less to see whether throughput falls with it, not less than the base."""
KEPT = 0.8
"""Of the throughput, which the retreat must leave; tasks that became slower by themselves lose as much as the concurrency."""
TELLING_TASKS = 60
"""Ended tasks that a mean throughput needs: a standard deviation of an eighth."""
INFLATED = 0.6
"""Of the growth, which run time must show as well: throughput alone may have other reasons."""
KEEPS_UP = 0.9
"""Of what arrives: a fleet that does so much is not short of downstream."""
FELL = 0.85
"""Of the base's throughput: a full downstream keeps its throughput, slower tasks lose it."""
TELLING_RATE = 2.0
"""Ended tasks per second, below which the throughput of some seconds is chance."""
REFUTED_SECONDS = 120.0
PROBE = 1.5
"""How far the fleet may grow after a freeze, to find out whether growth brings anything again."""
GAIN = 0.15
"""The least part of the growth that must come back as throughput."""
UNPROVEN = (
    "tasks become slower as more of them run, as if something downstream were saturated; first this growth has to pay"
)
"""What holds both dimensions at a rung."""
_LEAST_SETTLING_SECONDS = 10.0
_OVERDUE_SECONDS = 30.0
_FORGOTTEN_SECONDS = 120.0
_MOST_BACKOFF_SECONDS = 600.0


def holds_growth(scalability: Scalability) -> bool:
    """Whether growth has to prove itself first, or has just not paid."""
    return scalability.frozen_until is not None or scalability.rung is not None or scalability.probing


def update(
    scalability: Scalability,
    view: Observation,
    progress: CounterDelta,
    *,
    rate: float,
    throughput: float,
    worker: Capacity,
    now: float,
) -> Scalability:
    """The experiment after one more interval. `rate` is arrivals per second, `throughput` finished tasks per second."""
    if progress.seconds <= 0:
        return scalability
    if scalability.frozen_until is not None and now >= scalability.frozen_until:
        scalability = replace(scalability, frozen_until=None, frozen=None, probing=True, base=None, grown_at=None)
    if scalability.rung is not None and now >= _overdue_at(scalability):
        scalability = replace(scalability, base=None, grown_at=None, rung=None)
    limit = sum(sample.threads_limit for sample in view.workers)
    working = sum(sample.threads_busy for sample in view.workers)
    runtime = (
        progress.runtime_sum_seconds / progress.runtime_count if progress.runtime_count else worker.runtime_seconds
    )
    keeps_up = view.unstarted <= throughput >= KEEPS_UP * rate
    if limit <= 0 or (keeps_up and _calm(scalability, runtime, now)):
        return Scalability(refuted_until=scalability.refuted_until)
    saturated = working >= 0.8 * limit
    if not saturated and view.unstarted <= throughput:
        return replace(scalability, rung=None, grown_at=None)  # whoever fills the fleet next gets a verdict of his own
    by_chance = not saturated or progress.blocked or progress.finished <= 0 or throughput < TELLING_RATE
    if by_chance or _somebody_came(view, worker, now):
        return scalability  # says nothing about the downstream
    cpu_bound = progress.utilisation(worker.cores) >= CPU_BOUND
    point = Point(now, working, throughput, runtime)
    if scalability.frozen_until is not None:
        return _retreated(scalability, point, progress, limit)
    return _climb(scalability, point, len(view.serving), cpu_bound=cpu_bound, keeps_up=keeps_up)


def _somebody_came(view: Observation, worker: Capacity, now: float) -> bool:
    """Whether a worker has been Ready for less than it takes to fill and to end its first tasks: the slow tasks that end
    are those of the others, who were full, and the idle cores are the new one's.
    """
    settled = min(2 * worker.runtime_seconds, _LEAST_SETTLING_SECONDS)
    return any(pod.ready_since is not None and now - pod.ready_since < settled for pod in view.serving)


def judged_at(scalability: Scalability) -> float:
    """When what was started at the rung has ended, had it taken as long as at the base."""
    base, grown_at = scalability.base, scalability.grown_at
    if base is None or grown_at is None:
        return inf
    return grown_at + max(_LEAST_SETTLING_SECONDS, 2 * base.runtime_seconds)


def _overdue_at(scalability: Scalability) -> float:
    """When a rung without a verdict is given up, for blocked hubs or a throughput that is chance: it holds a fleet back."""
    base = scalability.base
    passage = 2 * RUNG * base.passage_seconds if base is not None else 0.0
    return judged_at(scalability) + max(_OVERDUE_SECONDS, passage)


def _calm(scalability: Scalability, runtime: float, now: float) -> bool:
    """Whether nothing is left of the growth that is being judged, or it is long ago."""
    base, frozen = scalability.base, scalability.frozen
    if frozen is not None:
        return now > frozen.at + _FORGOTTEN_SECONDS
    return base is None or runtime < SLOWER * base.runtime_seconds or now > base.at + _FORGOTTEN_SECONDS


def _retreated(scalability: Scalability, point: Point, progress: CounterDelta, limit: float) -> Scalability:
    """Whether the retreat took throughput with it: then the downstream was not full."""
    frozen = scalability.frozen
    if frozen is None or point.concurrency > 1.05 * limit or point.concurrency > 0.85 * frozen.concurrency:
        return scalability
    if point.at < frozen.at + max(frozen.runtime_seconds, frozen.passage_seconds):
        return scalability  # what ends now was started before the way back
    retreat = Ratio(scalability.retreat.total + progress.finished, scalability.retreat.weight + progress.seconds)
    enough = retreat.total >= TELLING_TASKS and retreat.weight >= _LEAST_SETTLING_SECONDS
    if enough and retreat.mean < KEPT * frozen.throughput:
        return Scalability(refuted_until=point.at + REFUTED_SECONDS)
    return replace(scalability, retreat=retreat)


def _climb(scalability: Scalability, point: Point, serving: int, *, cpu_bound: bool, keeps_up: bool) -> Scalability:
    """One more moment of a fleet of which every green thread is taken."""
    base = scalability.base
    if base is None or point.concurrency < 0.8 * base.concurrency:
        return scalability if cpu_bound else replace(scalability, base=point, grown_at=None, rung=None)
    if point.concurrency < GROWN * base.concurrency:
        return replace(scalability, base=_at_best(base, point), grown_at=None, rung=None)
    grown_at = scalability.grown_at if scalability.grown_at is not None else point.at
    if point.at <= grown_at + max(base.runtime_seconds, THROUGHPUT_HALF_LIFE_SECONDS):
        base = _at_best(base, point)  # what ends now was started at the base
    rung = scalability.rung
    # A burst slows down what it meets for once: only tasks that were started since can tell of the growth.
    ended = point.at >= grown_at + base.runtime_seconds
    if rung is None and ended and not cpu_bound and point.runtime_seconds >= SLOWER * base.runtime_seconds:
        rung = max(RUNG * base.concurrency, point.concurrency)
    scalability = replace(scalability, base=base, grown_at=grown_at, rung=rung)
    if point.at < judged_at(scalability):
        return scalability
    excused = keeps_up or point.at < scalability.refuted_until
    return _judged(scalability, base, point, serving, excused=excused, cpu_bound=cpu_bound)


def _at_best(base: Point, point: Point) -> Point:
    return replace(base, throughput=max(base.throughput, point.throughput))


def _judged(
    scalability: Scalability, base: Point, point: Point, serving: int, *, excused: bool, cpu_bound: bool
) -> Scalability:
    """What the growth from `base` to `point` has brought: a new base, or the way back."""
    grown, gained = point.concurrency / base.concurrency, point.throughput / base.throughput
    proven = replace(scalability, base=point, grown_at=None, rung=None, probing=False, fell=False)
    if excused or gained >= 1 + GAIN * (grown - 1):
        return proven
    if cpu_bound:
        return _unproven(scalability, point)
    inflated = point.runtime_seconds >= INFLATED * grown * base.runtime_seconds
    if (scalability.fell or not inflated) and point.at < (scalability.grown_at or 0.0) + point.passage_seconds:
        return scalability  # the tasks that were started at the rung have not ended yet
    if not inflated:
        return proven  # throughput is short of something else than the downstream
    if gained < FELL and not scalability.fell:
        base = replace(point, throughput=base.throughput)
        return replace(scalability, base=base, grown_at=None, rung=None, fell=True)
    return replace(
        scalability,
        frozen_until=point.at + scalability.backoff_seconds,
        frozen=replace(point, throughput=min(point.throughput, base.throughput)),
        retreat=Ratio(),
        probing=False,
        rung=None,
        fell=False,
        frozen_workers=serving,
        frozen_threads=ceil(max(base.concurrency, RETREAT * point.concurrency) / max(1, serving)),
        backoff_seconds=min(_MOST_BACKOFF_SECONDS, 2 * scalability.backoff_seconds),
        gain=(grown, gained),
    )


def _unproven(scalability: Scalability, point: Point) -> Scalability:
    """Busy cores explain why growth brought nothing, and it has proven nothing: were it the base, green threads and S would lift each
    other for as long as the cores are busy, and the next comparison would begin there. Where it was in doubt already, it goes on by rungs.
    """
    in_doubt = scalability.probing or scalability.rung is not None
    rung, grown_at = (RUNG * point.concurrency, point.at) if in_doubt else (None, None)
    return replace(scalability, grown_at=grown_at, rung=rung, probing=False, fell=False)
