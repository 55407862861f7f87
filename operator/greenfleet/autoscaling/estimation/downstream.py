"""Did more running tasks bring more throughput? If not, something downstream is full, and more of them only make it
slower.

A full downstream inflates the run time S in proportion to the running tasks while throughput stands still (Little's
law), and any formula in S then asks for ever more. So growth that made tasks slower has to pay, and stops where it did
not (additive increase on throughput gain):

    growing --half as much again runs, and tasks are slower--> testing --throughput gained--> growing
    testing --throughput stood still--> holding --time is up, or throughput rises or falls--> testing half as much
    again: green threads first, then workers; where throughput stood still, a step back--> holding
    A step back that costs throughput speaks for slower tasks: the test that follows has no step back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ..model import ScalingSpec
from ..tuning import Tuning
from ..validation import Observation
from .counters import CounterDelta
from .service import Capacity


@dataclass(frozen=True, slots=True)
class Point:
    """The saturated fleet at one moment."""

    concurrency: float
    throughput: float
    runtime_seconds: float


@dataclass(frozen=True, slots=True)
class Downstream:
    """The running comparison."""

    base: Point | None = None
    """What growth is compared with: where the saturation began, or what has proven itself."""
    grown_at: float | None = None
    """Since when more has run than in the base, or could have."""
    ceiling: float | None = None
    """Running tasks beyond which nothing grows for now."""
    held_until: float | None = None
    """Growth brought nothing and stops until then."""
    backoff_seconds: float = 0.0
    """Of the last stop; 0: there was none."""
    probing: bool = False
    """A stop is over, and the ceiling is above what has proven itself."""
    more_workers: bool = False
    """The probe may take workers: there was no room for green threads."""
    excused: bool = False
    """Growth or a step back has cost throughput, which speaks for slower tasks: it was let pass once."""
    gain: tuple[float, float] = (1.0, 1.0)
    """(concurrency, throughput) after over before, of the growth that brought nothing."""

    def threads(self, serving: int) -> int:
        """The most green threads of each of `serving` workers; only where there is a ceiling."""
        return ceil((self.ceiling or 0.0) / max(1, serving))

    def update(  # noqa: PLR0917
        self,
        spec: ScalingSpec,
        observation: Observation,
        delta: CounterDelta,
        worker: Capacity,
        flow: tuple[float, float],
        tuning: Tuning,
    ) -> Downstream:
        """After one more interval. `flow` is arrivals and finished tasks per second."""
        if delta.seconds <= 0 or not tuning.uses("full-downstream"):
            return self
        now, (rate, throughput) = observation.at, flow
        limit, working = observation.threads_limit, observation.threads_busy
        if limit <= 0 or observation.unstarted <= throughput >= tuning.saturated * rate:  # it keeps up
            return Downstream(backoff_seconds=self.backoff_seconds / 2)
        if self.held_until is not None and self.ceiling is not None and now >= self.held_until:
            return replace(self, held_until=None, ceiling=tuning.growth * self.ceiling, grown_at=now, probing=True)
        settled = min(2 * worker.runtime_seconds, tuning.scale_in_seconds)
        fresh = any(pod.ready_since is not None and now - pod.ready_since < settled for pod in observation.serving)
        taken = working >= tuning.utilisation * limit and not delta.blocked(tuning) and not fresh
        # a full core limits throughput, and makes tasks slower
        cpu_bound = delta.utilisation(spec.cpu_limit_cores) >= tuning.utilisation
        tells = taken and delta.finished >= 2 * delta.seconds
        comparable = tells and not cpu_bound
        if self._gives_up(now, working, comparable, tuning):
            more = self.probing and not self.more_workers and comparable
            return replace(self, grown_at=now, more_workers=True) if more else self._free(None)
        if not tells:
            return self
        runtime = delta.runtime_sum_seconds / delta.runtime_count if delta.runtime_count else worker.runtime_seconds
        return self._compare(now, Point(working, throughput, runtime), cpu_bound, tuning)

    def _free(self, base: Point | None) -> Downstream:
        return Downstream(base, backoff_seconds=self.backoff_seconds)

    def _gives_up(self, now: float, working: float, comparable: bool, tuning: Tuning) -> bool:
        """A ceiling under which nothing can be compared never holds for ever."""
        if self.base is None or self.grown_at is None:
            return False
        late = now >= self.grown_at + 2 * (tuning.long_seconds + self.base.runtime_seconds)
        return late and not (comparable and self._has_grown(working, tuning))

    def _has_grown(self, working: float, tuning: Tuning) -> bool:
        return self.base is not None and working >= tuning.saturated * tuning.growth * self.base.concurrency

    def _compare(self, now: float, point: Point, cpu_bound: bool, tuning: Tuning) -> Downstream:  # noqa: PLR0911
        base = self.base
        if base is not None and self.held_until is not None:
            settled = now >= self.held_until - self.backoff_seconds / 2
            recovered = settled and point.throughput >= (1 + tuning.gain) * base.throughput
            slower = point.throughput < base.throughput / tuning.growth
            if not (recovered or slower):
                return self
            # ask at once; where the tasks became slower, fewer bring less, and there is no way back again
            again = replace(self._free(point), ceiling=tuning.growth * point.concurrency, grown_at=now, probing=True)
            return replace(again, excused=slower)
        if base is None or point.concurrency < tuning.utilisation * base.concurrency:
            return self if cpu_bound else self._free(point)
        best = replace(base, throughput=max(base.throughput, point.throughput))
        if not self._has_grown(point.concurrency, tuning):
            return replace(self, base=best) if self.probing else replace(self._free(best), excused=self.excused)
        grown_at = self.grown_at if self.grown_at is not None else now
        if now <= grown_at + max(base.runtime_seconds, tuning.throughput_half_life_seconds):
            return replace(self, grown_at=grown_at, base=best)  # what ends now was started before
        if not self.probing and point.runtime_seconds < base.runtime_seconds / tuning.utilisation:
            return self._free(point)
        if cpu_bound:
            return replace(self, grown_at=grown_at)
        if now < grown_at + max(tuning.scale_in_seconds, 2 * base.runtime_seconds):
            ceiling = self.ceiling or max(2 * base.concurrency, point.concurrency)
            return replace(self, grown_at=grown_at, ceiling=ceiling)
        grown, gained = point.concurrency / base.concurrency, point.throughput / base.throughput
        if gained >= 1 + tuning.gain * (grown - 1):
            return self._free(point)
        if gained < 1 / tuning.growth and not self.excused:  # slower tasks lose throughput, a full downstream keeps it
            return replace(self._free(replace(point, throughput=base.throughput)), excused=True)
        most = base.concurrency / tuning.growth if self.probing and not self.excused else point.concurrency
        backoff = min(tuning.longest_seconds, max(tuning.long_seconds, 2 * self.backoff_seconds))
        return Downstream(
            base=Point(most, best.throughput, most / best.throughput),
            ceiling=most,
            held_until=now + backoff,
            backoff_seconds=backoff,
            gain=(grown, gained),
        )
