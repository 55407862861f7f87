"""Did more running tasks bring more throughput? If not, something downstream is full, and more of them only make it slower.

A full downstream inflates the run time S in proportion to the running tasks while throughput stands still (Little's law), and any formula
in S then asks for ever more. So growth climbs the hill of the Universal Scalability Law step by step (perturb and observe):

    climbing --more tasks, longer run time--> testing --throughput gained--> climbing
    testing --throughput stood still--> backoff --time is up--> testing a little more
    backoff --throughput fell with the retreat: the tasks themselves had become slower--> climbing
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, inf

from ..tuning import Tuning
from ..validation import Observation
from .counters import CounterDelta
from .service import Capacity, Ratio


@dataclass(frozen=True, slots=True)
class Point:
    """The saturated fleet at one moment."""

    at: float
    concurrency: float
    throughput: float
    runtime_seconds: float


@dataclass(frozen=True, slots=True)
class Downstream:
    """The running comparison."""

    base: Point | None = None
    """The concurrency that has proven itself, or with which the saturation began."""
    grown_at: float | None = None
    """Since when the fleet has been clearly larger than the base."""
    ceiling: float | None = None
    """Running tasks beyond which nothing grows for now."""
    judged_at: float = inf
    """When the tasks that were started since the growth have ended."""
    backoff_until: float | None = None
    backoff_seconds: float = 0.0
    excused: bool = False
    """The growth before cost throughput, which speaks for slower tasks, and was let pass once."""
    failed: Point | None = None
    """The moment at which the growth had brought nothing."""
    retreat: Ratio = field(default_factory=Ratio)
    """Tasks that ended since the tasks that ran before the retreat have ended, and seconds."""
    gain: tuple[float, float] = (1.0, 1.0)
    """(concurrency, throughput) after over before, of the growth that brought nothing."""

    @property
    def holds_growth(self) -> bool:
        """Whether growth has to prove itself first, or has just not paid."""
        return self.ceiling is not None

    def threads(self, serving: int) -> int:
        """The most green threads of each of `serving` workers."""
        return ceil((self.ceiling or inf) / max(1, serving)) if self.ceiling is not None else 10**9

    def update(
        self, observation: Observation, delta: CounterDelta, worker: Capacity, flow: tuple[float, float], tuning: Tuning
    ) -> Downstream:
        """After one more interval. `flow` is arrivals and finished tasks per second."""
        if delta.seconds <= 0 or not tuning.uses("full-downstream"):
            return self
        now, (rate, throughput) = observation.at, flow
        limit = sum(sample.threads_limit for sample in observation.workers)
        working = sum(sample.threads_busy for sample in observation.workers)
        if self.backoff_until is not None and self.ceiling is not None and now >= self.backoff_until:
            probe, give_up_at = tuning.growth * self.ceiling, now + tuning.backoff_seconds
            return Downstream(self.base, ceiling=probe, judged_at=give_up_at, backoff_seconds=self.backoff_seconds)
        overdue = self.base is not None and now > self.judged_at + tuning.backoff_seconds
        keeps_up = observation.unstarted <= throughput >= tuning.saturated * rate
        if self.backoff_until is None and (limit <= 0 or keeps_up or overdue):
            return Downstream(backoff_seconds=self.backoff_seconds if not keeps_up else self.backoff_seconds / 2)
        settled = min(2 * worker.runtime_seconds, tuning.scale_in_seconds)
        fresh = any(pod.ready_since is not None and now - pod.ready_since < settled for pod in observation.serving)
        if working < tuning.utilisation * limit or delta.blocked(tuning) or delta.finished < 2 * delta.seconds or fresh:
            return self  # says nothing about the downstream
        runtime = delta.runtime_sum_seconds / delta.runtime_count if delta.runtime_count else worker.runtime_seconds
        point, cpu_bound = (
            Point(now, working, throughput, runtime),
            delta.utilisation(worker.cores) >= tuning.utilisation,
        )
        if self.backoff_until is not None:
            return self._check_retreat(point, delta, cpu_bound, tuning)
        return self._climb(point, cpu_bound, tuning)

    def _climb(self, point: Point, cpu_bound: bool, tuning: Tuning) -> Downstream:  # noqa: PLR0911
        base = self.base
        if base is None or point.concurrency < tuning.utilisation * base.concurrency:
            return self if cpu_bound else Downstream(base=point, backoff_seconds=self.backoff_seconds)
        if point.concurrency < tuning.saturated * tuning.growth * base.concurrency:
            best = replace(base, throughput=max(base.throughput, point.throughput))
            if self.grown_at is None:
                return replace(self, base=best)  # a probe goes on
            return replace(self, base=best, grown_at=None, ceiling=None, judged_at=inf)
        grown_at = self.grown_at if self.grown_at is not None else point.at
        if point.at <= grown_at + max(base.runtime_seconds, tuning.throughput_half_life_seconds):
            base = replace(base, throughput=max(base.throughput, point.throughput))  # what ends now was started before
        judged_at = grown_at + max(tuning.scale_in_seconds, 2 * base.runtime_seconds)
        slower = point.runtime_seconds >= base.runtime_seconds / tuning.utilisation
        testing = self.ceiling is not None or (slower and not cpu_bound and point.at >= grown_at + base.runtime_seconds)
        ceiling = (self.ceiling or max(2 * tuning.growth * base.concurrency, point.concurrency)) if testing else None
        changed = replace(self, base=base, grown_at=grown_at, judged_at=judged_at, ceiling=ceiling)
        if point.at < judged_at:
            return changed
        grown, gained = point.concurrency / base.concurrency, point.throughput / base.throughput
        paid = gained >= 1 + tuning.gain * (grown - 1) or not slower
        if paid:
            return Downstream(base=point, backoff_seconds=self.backoff_seconds)
        if cpu_bound:
            return replace(changed, grown_at=point.at, judged_at=inf) if testing else changed
        if (
            gained < 1 / tuning.growth and not self.excused
        ):  # a full downstream keeps its throughput, slower tasks lose it
            return Downstream(
                replace(point, throughput=base.throughput), backoff_seconds=self.backoff_seconds, excused=True
            )
        backoff, most = max(tuning.backoff_seconds, self.backoff_seconds), max(point.throughput, base.throughput)
        ceiling = max(base.concurrency, point.concurrency / tuning.growth)
        return Downstream(
            base=replace(
                point, concurrency=ceiling, throughput=most, runtime_seconds=point.runtime_seconds / tuning.growth
            ),
            ceiling=ceiling,
            backoff_until=point.at + backoff,
            backoff_seconds=min(10 * tuning.backoff_seconds, 2 * backoff),
            failed=replace(point, throughput=min(point.throughput, base.throughput)),
            gain=(grown, gained),
        )

    def _check_retreat(self, point: Point, delta: CounterDelta, cpu_bound: bool, tuning: Tuning) -> Downstream:
        """Throughput that falls with the retreat proves that the tasks themselves became slower, and busy cores that the downstream has
        recovered: growth is free again.
        """
        failed = self.failed
        if cpu_bound and failed is not None and point.throughput > (1 + tuning.gain) * failed.throughput:
            return Downstream()
        if failed is None or point.concurrency > tuning.saturated * failed.concurrency:
            return self
        passed = max(failed.runtime_seconds, failed.concurrency / max(failed.throughput, 1e-9))
        if point.at < failed.at + passed:
            return self  # what ends now was started before the retreat
        retreat = self.retreat.add(delta.finished, delta.seconds, 1.0)
        enough = retreat.weight >= 2 * tuning.scale_in_seconds
        fell = enough and retreat.mean < tuning.utilisation * failed.throughput
        return Downstream() if fell else replace(self, retreat=retreat)
