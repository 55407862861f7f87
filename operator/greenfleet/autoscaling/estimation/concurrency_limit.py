"""Green threads that one worker bears: what its core bears (`service.cpu_threads`), more where that was seen to idle,
less where memory is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from ..model import ScalingSpec
from ..tuning import DEFAULT, Tuning
from ..validation import Observation
from .counters import CounterDelta
from .service import Capacity, Service, cores_for_tasks, cpu_threads


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """What S/k cannot know."""

    raised: float = 0.0
    """Green threads that the cores bore idling while messages waited: S lags behind tasks that become slower."""
    raised_at: float = 0.0
    ceiling: float = inf
    """Green threads that memory bears, or that an earlier life bore: slow increase, multiplicative decrease."""
    moved_at: float = 0.0

    def update(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, worker: Capacity, tuning: Tuning
    ) -> ConcurrencyLimit:
        """After one more interval."""
        if not observation.workers or delta.worker_seconds <= 0:
            return self
        return self._raise(spec, observation, delta, worker, tuning)._lower(spec, observation, tuning)

    def _raise(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, worker: Capacity, tuning: Tuning
    ) -> ConcurrencyLimit:
        """By half at a time, where all green threads are taken, messages wait and the hubs idle all the same.

        A used-up CPU quota says nothing of that: few wake-ups with many answers each need less of it.
        """
        now = observation.at
        taken = observation.busy >= tuning.saturated * observation.threads_limit
        taken = taken and observation.unstarted > delta.started
        if not tuning.uses("raised-limit") or not taken or delta.blocked(tuning) or delta.cpu_worker_seconds <= 0:
            return replace(self, raised=0.0) if now - self.raised_at > tuning.long_seconds else self
        settling = max(2 * spec.scrape_interval_seconds, worker.runtime_seconds)
        if delta.hub_utilisation >= tuning.utilisation or now - self.raised_at < settling:
            return self
        more = tuning.growth if delta.hub_utilisation <= 0 else min(tuning.growth, 1 / delta.hub_utilisation)
        return replace(self, raised=max(each.threads_limit for each in observation.workers) * more, raised_at=now)

    def _lower(self, spec: ScalingSpec, observation: Observation, tuning: Tuning) -> ConcurrencyLimit:
        """By a third at a time while the memory of a worker is nearly full; back by a twentieth."""
        now, workers = observation.at, observation.workers
        if now - self.moved_at < tuning.lasting(tuning.scale_in_seconds, spec.scrape_interval_seconds):
            return self
        fullest = max(sample.memory_bytes for sample in workers)
        full = spec.memory_limit_bytes is not None and fullest >= tuning.memory * spec.memory_limit_bytes
        if full and tuning.uses("memory"):
            fewer = max(sample.threads_limit for sample in workers) / tuning.growth
            return replace(self, ceiling=min(self.ceiling, fewer), moved_at=now)
        if self.ceiling == inf:
            return self
        higher = tuning.memory_increase * self.ceiling + 1
        return replace(self, ceiling=higher if higher < spec.threads_max else inf, moved_at=now)


def capacity(spec: ScalingSpec, service: Service, limit: ConcurrencyLimit, tuning: Tuning = DEFAULT) -> Capacity:
    """The model of one worker, with careful guesses for what was not measured yet."""
    cpu = service.cpu_per_task_seconds or 0.0
    cpu_rate = cores_for_tasks(spec, tuning) / cpu if cpu > 0 else inf
    runtime = service.runtime_seconds or tuning.runtime_seconds
    startup = tuning.startup_seconds if service.startup_seconds is None else service.startup_seconds
    return Capacity(runtime, cpu, cpu_rate, service.efficiency, startup, safe_threads(spec, service, limit, tuning))


def safe_threads(spec: ScalingSpec, service: Service, limit: ConcurrencyLimit, tuning: Tuning = DEFAULT) -> int:
    """What core and memory bear, within the user's bounds. Until the CPU per task is known, a guess may only raise the
    start value.
    """
    runtime, cpu, bears = service.runtime_seconds, service.cpu_per_task_seconds, float(spec.threads_start)
    cores = cores_for_tasks(spec, tuning)
    if runtime is not None and cpu is not None:
        bears = cpu_threads(runtime, cpu, cores)
    elif runtime is not None and service.cpu.total > 0:
        bears = max(bears, cpu_threads(runtime, service.cpu.mean, cores))
    return max(spec.threads_min, int(min(spec.threads_max, max(bears, limit.raised), limit.ceiling)))
