"""The limit of green threads per worker: what its core bears, and additive increase, multiplicative decrease under pressure.

The core's share is a formula (`service.cpu_threads`); what that cannot know shows up as pressure: a hub that lags, memory that
grows with every running task. (AIMD: Chiu and Jain, 1989.)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from ..model import ScalingSpec
from ..tuning import DEFAULT, Tuning
from ..validation import Observation
from .counters import CounterDelta
from .service import Capacity, Ratio, Service, cores_for_tasks, cpu_threads


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """Drops at once, rises slowly."""

    limit: float | None = None
    """None: no pressure was seen."""
    moved_at: float = 0.0
    cause: str = ""
    lag: Ratio = field(default_factory=Ratio)
    """Lateness of the hubs' timers over the last seconds."""
    restored: bool = False
    """The limit comes from an earlier life, and it is not known yet whether it was pressure or just the core."""
    raised: float | None = None
    """Green threads beyond what S/k says that the cores bore idling while messages waited: S lags behind tasks that become slower."""
    raised_at: float = 0.0

    def restore(self, spec: ScalingSpec, service: Service, tuning: Tuning) -> ConcurrencyLimit:
        """What an earlier life learned as safe, once the spec is known: a limit only where the core would bear more."""
        if not self.restored or self.limit is None:
            return self
        bears = safe_threads(spec, service, ConcurrencyLimit(), tuning)
        if self.limit >= tuning.decrease * bears:
            return replace(self, limit=None, restored=False)
        return replace(self, restored=False, cause="learned before the operator was restarted")

    def update(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, worker: Capacity, tuning: Tuning
    ) -> ConcurrencyLimit:
        """After one more interval."""
        threads = max((sample.threads_limit for sample in observation.workers), default=0.0)
        if not threads or delta.worker_seconds <= 0:
            return self
        keep: float = 0.5 ** (delta.seconds / tuning.throughput_half_life_seconds)
        now, lag = observation.at, self.lag.add(delta.hub_lag_sum_seconds, delta.hub_lag_count, keep)
        changed = replace(self, lag=lag)._raise(spec, observation, delta, worker, tuning)
        used = delta.utilisation(worker.cores)
        cause = changed._pressure(spec, observation, used, tuning) if not delta.blocked(tuning) else ""
        settled = now - self.moved_at >= max(
            tuning.scale_in_seconds, tuning.lasting_scrapes * spec.scrape_interval_seconds
        )
        if cause and settled:
            lower = max(float(spec.threads_min), tuning.decrease * threads)
            return replace(changed, limit=min(lower, self.limit or inf), moved_at=now, cause=cause)
        if self.limit is None or cause or used >= tuning.saturated or not settled:
            return changed
        higher = tuning.overcommit * self.limit + 1
        return replace(changed, limit=None if higher >= spec.threads_max else higher, moved_at=now)

    def _pressure(self, spec: ScalingSpec, observation: Observation, used: float, tuning: Tuning) -> str:
        """What the workers suffer from; empty if from nothing."""
        fullest = max(sample.memory_bytes for sample in observation.workers)
        if tuning.uses("memory") and spec.memory_limit_bytes and fullest >= tuning.memory * spec.memory_limit_bytes:
            return "memory is nearly full"
        lag = self.lag.mean if self.lag.weight > 0 else 0.0
        if tuning.uses("hub-lag") and used >= tuning.saturated and lag > tuning.lag_seconds:
            return "the hub lags"
        return ""

    def _raise(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, worker: Capacity, tuning: Tuning
    ) -> ConcurrencyLimit:
        """More green threads than S/k says, by half at a time, where all are taken, messages wait and the cores idle all the same."""
        now, limits = observation.at, [sample.threads_limit for sample in observation.workers]
        taken = observation.busy >= tuning.saturated * sum(limits) and observation.unstarted > delta.started
        if not tuning.uses("raised-limit") or not taken or delta.blocked(tuning) or delta.cpu_worker_seconds <= 0:
            calm = self.raised is not None and now - self.raised_at > tuning.thread_window_seconds
            return replace(self, raised=None) if calm else self
        used = (
            delta.hub_utilisation
        )  # a used-up CPU quota tells nothing: few wake-ups with many answers each need less of it
        settling = max(2 * spec.scrape_interval_seconds, worker.runtime_seconds)
        if used >= tuning.utilisation or now - self.raised_at < settling:
            return self
        return replace(self, raised=max(limits) * min(tuning.growth, 1 / max(used, 0.01)), raised_at=now)


def capacity(spec: ScalingSpec, service: Service, limit: ConcurrencyLimit, tuning: Tuning = DEFAULT) -> Capacity:
    """The model of one worker, with careful guesses for what was not measured yet."""
    return Capacity(
        runtime_seconds=service.runtime_seconds or tuning.runtime_seconds,
        cpu_per_task_seconds=service.cpu_per_task_seconds or 0.0,
        cores=spec.cpu_limit_cores,
        efficiency=service.efficiency,
        startup_seconds=tuning.startup_seconds if service.startup_seconds is None else service.startup_seconds,
        safe_threads=safe_threads(spec, service, limit, tuning),
        idle_cores=service.idle_cores,
    )


def safe_threads(spec: ScalingSpec, service: Service, limit: ConcurrencyLimit, tuning: Tuning = DEFAULT) -> int:
    """What the core bears, and what lag and memory allow, within the user's bounds."""
    most = min(float(spec.threads_max), max(_core_bears(spec, service, tuning), limit.raised or 0.0))
    if limit.limit is not None:
        most = min(most, limit.limit)
    return max(spec.threads_min, int(most))


def _core_bears(spec: ScalingSpec, service: Service, tuning: Tuning) -> float:
    """Green threads. Until the CPU per task is known, a guess may raise the start value and not lower it."""
    start, runtime = float(spec.threads_start), service.runtime_seconds
    cores = cores_for_tasks(spec.cpu_limit_cores, service.idle_cores)
    if runtime is None:
        return start
    if service.cpu_per_task_seconds is not None:
        return cpu_threads(runtime, service.cpu_per_task_seconds, cores, tuning)
    return max(start, cpu_threads(runtime, service.cpu.mean, cores, tuning)) if service.cpu.total > 0 else start
